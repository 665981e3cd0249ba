import type { Host } from '../host/schema.ts'
import { defaultUser } from './job.ts'

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
    ...(isAlert ? ofAlert(mails) : OF_JOB),
    `CapabilityBoundingSet=${user === 'root' ? rightsOfRoot(isAlert, mails) : ''}`,
    ...(needsTmp(host, isAlert) ? [] : ['PrivateTmp=yes']),
    // Where a mailer leaves its mail, if its user may.
    ...(isAlert && hasCommand(host) ? ['ReadWritePaths=-/var/spool -/var/mail -/var/log'] : []),
  ]
}

/** Whether somebody is told by a program that needs rights which nobody gets in a sandbox, as a setuid mailer does. Pure. */
export function tellsAsRoot({ notify }: Host): boolean {
  return Object.values(notify).some(({ command, privileged }) => command !== undefined && privileged)
}

/** What root runs to tell people. Pure. */
export function rootCommands(host: Host): (readonly string[])[] {
  const isRoots = defaultUser(host) === 'root'
  return Object.values(host.notify).flatMap(({ command, privileged }) =>
    command !== undefined && (isRoots || privileged) ? [command] : [],
  )
}

function hasCommand({ notify }: Host): boolean {
  return Object.values(notify).some(({ command }) => command !== undefined)
}

/** Root without the first three may touch its own files only, and the cluster's are not. */
function rightsOfRoot(isAlert: boolean, mails: boolean): string {
  const files = 'CAP_DAC_OVERRIDE CAP_CHOWN CAP_FOWNER'
  if (!isAlert) return `${files} CAP_SETUID CAP_SETGID CAP_KILL` // becomes the cluster's owner, and ends what ran as that
  // What it writes is its own then; without the right it could not come near the state of a cluster's owner.
  return mails ? `${files} CAP_SETUID CAP_SETGID` : 'CAP_DAC_OVERRIDE'
}

const COMMON = [
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
  'NoNewPrivileges=yes',
  'ProtectHome=read-only',
  'RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK',
  'SystemCallFilter=@system-service',
]

function ofAlert(mails: boolean): string[] {
  return [
    'ProtectHome=yes',
    'ProtectProc=invisible',
    'ProcSubset=pid',
    // Postfix's sendmail asks for the addresses of this host.
    `RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6${mails ? ' AF_NETLINK' : ''}`,
    'SystemCallFilter=@system-service',
    'SystemCallFilter=~@resources',
    // Exim's sends by a process that goes on after it has ended, and would be ended with the unit; that becomes
    // root by its setuid bit. Otherwise mail for this host is deferred, and all other mail to that address with it.
    ...(mails ? ['KillMode=process'] : ['NoNewPrivileges=yes']),
  ]
}

/**
 * Whether something that it needs is in a folder for temporary files. A private one would hide the server's
 * socket; what is stored there would be in none that anybody sees, and gone when the job ends, with success.
 */
function needsTmp({ host, postgres, reingest, schedule, store }: Host, isAlert: boolean): boolean {
  const paths = [
    host.state_dir,
    schedule.metrics_dir,
    ...(isAlert ? [] : [postgres.socket_dir ?? postgres.data_dir]),
    ...(isAlert ? [] : Object.values(store).map((spec) => (spec.type === 'dir' ? spec.path : undefined))),
    ...(isAlert ? [] : Object.values(reingest).flatMap(({ data_dirs: folders }) => folders)),
  ]
  return paths.some((path) => path !== undefined && /^\/+(var\/+)?tmp(\/|$)/.test(path))
}
