-- Lists a lineage under its tenant, and drops those that have been gone for long.
-- KEYS 1 tenant's lineages
-- ARGV 1 tag, 2 until when it is listed, '+inf' for ever, 3 now
-- Answers 1
list_lineage(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
return 1
