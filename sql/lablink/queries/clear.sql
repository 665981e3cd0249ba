-- summary: forgets all machines, after a backup; whoever listens is not notified
-- empties: any
-- backup: first
truncate vms restart identity
