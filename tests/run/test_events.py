import pytest

from tascnet.run.events import RunEvent, emit, running, watching

BEGIN, END = (RunEvent(stage="tune", state=state) for state in ("started", "finished"))


def test_listeners_hear_what_happens_within_their_context_alone():
    outer, inner = [], []
    emit(BEGIN)
    with watching([outer.append]):
        with watching([inner.append]):
            emit(BEGIN)
        emit(END)
    emit(END)
    assert outer == [BEGIN, END]
    assert inner == [BEGIN]


def test_a_stage_begins_and_ends():
    heard = []

    @running("tune")
    def work(number):
        return number + 1

    with watching([heard.append]):
        assert [work(1), work(2)] == [2, 3]
    assert heard == [BEGIN, END, BEGIN, END]


def test_a_stage_that_is_stopped_has_failed():
    heard = []
    with watching([heard.append]), pytest.raises(KeyboardInterrupt), running("tune"):
        raise KeyboardInterrupt
    assert heard == [BEGIN, RunEvent(stage="tune", state="failed")]


def test_what_a_listener_raises_ends_the_run_and_its_watching():
    def angry(event):
        raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"), watching([angry]):
        emit(BEGIN)
    emit(BEGIN)
