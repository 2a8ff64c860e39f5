"""What a run leaves: folder, identity, journals, records, log and progress."""
