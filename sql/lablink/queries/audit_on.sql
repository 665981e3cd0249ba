-- summary: begins to note who changes which machine; it stays so until audit_off
-- changes: any
alter table vms enable trigger vm_audit, enable trigger vm_audit_truncate
