"""Work on the file as a whole: lock, backup, restore, compaction, re-encryption."""
