import type { Host } from '../host/schema.ts'

/** Whose sandbox it is. */
export interface Sandbox {
  readonly user: string
  /** It tells people, by programs that may need rights of their own. */
  readonly isAlert: boolean
  readonly host: Host
}

/**
 * Lines of a [Service] section that take away what a job does not need (systemd.exec(5)). Left out on purpose:
 * MemoryDenyWriteExecute, which ends V8; PrivateUsers, by which peer authentication would see another user;
 * ProcSubset=pid, since the memory of the host is looked up; ProtectProc, which hides the server's processes. Pure.
 */
export function hardeningLines({ user, isAlert, host }: Sandbox): string[] {
  const mails = isAlert && tellsAsRoot(host)
  return [
    ...COMMON,
    ...(isAlert ? OF_ALERT : OF_JOB),
    `CapabilityBoundingSet=${user === 'root' ? (isAlert && !mails ? OF_FILES : `CAP_SETUID CAP_SETGID CAP_KILL ${OF_FILES}`) : ''}`,
    // A job may need the server's socket, which some keep there.
    ...(isAlert || !isInTmp(host) ? ['PrivateTmp=yes'] : []),
    // Where a mailer leaves its mail.
    ...(mails ? ['ReadWritePaths=-/var/spool -/var/mail -/var/log'] : []),
  ]
}

/** Whether somebody is told by a program that needs rights which nobody gets in a sandbox, as a setuid mailer does. Pure. */
export function tellsAsRoot({ notify }: Host): boolean {
  return Object.values(notify).some(({ command, privileged }) => command !== undefined && privileged)
}

/** Root without them may touch its own files only, and the cluster's are not. */
const OF_FILES = 'CAP_DAC_OVERRIDE CAP_CHOWN CAP_FOWNER'

const COMMON = [
  'NoNewPrivileges=yes',
  'ProtectSystem=strict',
  'PrivateDevices=yes',
  'PrivateMounts=yes',
  'ProtectClock=yes',
  'ProtectControlGroups=yes',
  'ProtectHostname=yes',
  'ProtectKernelLogs=yes',
  'ProtectKernelModules=yes',
  'ProtectKernelTunables=yes',
  'RestrictNamespaces=yes',
  'RestrictRealtime=yes',
  'RestrictSUIDSGID=yes',
  'LockPersonality=yes',
  'RemoveIPC=no',
  'SystemCallArchitectures=native',
  'SystemCallErrorNumber=EPERM',
]

const OF_JOB = [
  'ProtectHome=read-only',
  'RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK',
  'SystemCallFilter=@system-service',
]

const OF_ALERT = [
  'ProtectHome=yes',
  'ProtectProc=invisible',
  'ProcSubset=pid',
  'RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6',
  'SystemCallFilter=@system-service',
  'SystemCallFilter=~@resources',
]

/** A private folder for temporary files would hide the server's socket. */
function isInTmp({ postgres }: Host): boolean {
  return /^\/(var\/)?tmp(\/|$)/.test(postgres.socket_dir ?? postgres.data_dir ?? '')
}
