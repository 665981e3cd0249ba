-- summary: ends to note who changes which machine; what is noted stays
-- changes: any
alter table vms disable trigger vm_audit, disable trigger vm_audit_truncate
