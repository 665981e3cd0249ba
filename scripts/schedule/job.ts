import { Fail } from '../core/fail.ts'
import { didYouMean } from '../core/nearest.ts'
import type { SecretRef } from '../core/secret.ts'
import type { ReingestSpec } from '../host/reingest-schema.ts'
import type { AddressSpec, Host } from '../host/schema.ts'

/** What a unit's programs touch: its sandbox is made of it. */
interface Needs {
  /** OS user. */
  readonly user: string
  /** Arguments of the launcher, without `-c`. */
  readonly argv: readonly string[]
  /** Names of systemd credentials. */
  readonly credentials: readonly string[]
  /** Folders that it writes to. */
  readonly writes: readonly string[]
  /** Folders of others that it reads. */
  readonly reads: readonly string[]
  /** Goes beyond this host: it waits for the network. */
  readonly network: boolean
  /** Names of `[notify.NAME]`. */
  readonly onFailure: readonly string[]
}

/** Something that runs at times: a timer and a service. */
export interface Job extends Needs {
  /** `backup-nightly`: its unit is called PREFIX-NAME. */
  readonly name: string
  /** For people: `backup nightly`. */
  readonly title: string
  /** Its path in the host file, for messages: `backup.nightly.schedule`. */
  readonly path: string
  /** As written: cron, or a systemd calendar expression. */
  readonly schedule: string
  readonly timezone: string
  readonly randomizedDelay: string
  readonly persistent: boolean
  readonly runtimeLimit: string
  /** How late a success may be. */
  readonly grace: string
  /** Asked after each success. */
  readonly ping: AddressSpec | undefined
  /** Tells of failures: it has the rights of an alert, not those of a job. */
  readonly isAlert: boolean
}

/** Something that always runs. */
export interface Service extends Needs {
  /** `archive`, `watch-telem`: its unit is called PREFIX-NAME. */
  readonly name: string
  readonly title: string
  /** The template of its unit. */
  readonly template: 'archive' | 'watch'
  /** What it reads of the host file besides the place of the cluster: with another one it is started again. */
  readonly content: unknown
}

/**
 * Every job that a host file schedules, by name, in the order of the file. Pure.
 * @throws {Fail} `host-file` when a job has no user
 */
export function jobsOf(host: Host): Job[] {
  const jobs = [...backupJobs(host), ...archiveJobs(host), ...reingestJobs(host)]
  return jobs.length + servicesOf(host).length === 0 ? [] : [...jobs, checkJob(host)]
}

/**
 * What a host file wants to run always. Pure.
 * @throws {Fail} `host-file` when it has no user
 */
export function servicesOf(host: Host): Service[] {
  return [...archiveServices(host), ...watchServices(host)]
}

function archiveServices(host: Host): Service[] {
  if (host.archive === undefined) return []
  return [
    {
      ...archiveNeeds(host),
      name: 'archive',
      title: 'archive of the WAL',
      template: 'archive',
      content: [host.store, host.encryption, host.archive],
      argv: ['archive', 'run'],
    },
  ]
}

function watchServices(host: Host): Service[] {
  return Object.entries(host.reingest).flatMap(([name, spec]): Service[] => {
    if (!spec.watch) return []
    return [
      {
        ...reingestNeeds(host, name, spec),
        name: `watch-${name}`,
        title: `watch of the files of ${name}`,
        template: 'watch',
        content: [spec, host.databases[spec.database]],
        argv: ['reingest', 'watch', name],
      },
    ]
  })
}

/**
 * One job by its name.
 * @throws {Fail} `usage`, with the nearest name
 */
export function findJob(host: Host, name: string): Job {
  const jobs = jobsOf(host)
  const found = jobs.find((job) => job.name === name)
  if (found) return found
  const names = jobs.map((job) => job.name)
  throw new Fail('usage', `there is no scheduled job "${name}"${didYouMean(name, names)}`, {
    hint:
      names.length === 0
        ? 'Schedule one: [backup.NAME] schedule = "0 2 * * *"'
        : `There is: ${names.join(', ')}`,
  })
}

function backupJobs(host: Host): Job[] {
  return Object.entries(host.backup).flatMap(([name, spec]): Job[] => {
    const wait = ['--wait', spec.lock_wait ?? host.schedule.lock_wait]
    const common = { ...timingOf(host, spec), ping: spec.ping }
    const needs = (opens: Opened) => needsOf(host, `backup.${name}`, { ...spec, opens })
    const own = host.archive === undefined ? [spec.store] : [spec.store, host.archive.store]
    const all = Object.keys(host.store)
    const take: Job[] =
      spec.schedule === undefined
        ? []
        : [
            {
              ...common,
              // A prune looks into all stores for backups on top of its own, and prunes the WAL for them.
              ...needs(spec.prune ? { reads: all, writes: own } : { reads: own, writes: [spec.store] }),
              name: `backup-${name}`,
              title: `backup ${name}`,
              path: `backup.${name}.schedule`,
              schedule: spec.schedule,
              argv: ['backup', 'take', name, ...wait, ...(spec.prune ? ['--prune'] : [])],
            },
          ]
    const verify: Job[] =
      spec.verify_schedule === undefined
        ? []
        : [
            {
              ...common,
              ...needs({ reads: all, writes: [spec.store] }),
              name: `verify-${name}`,
              title: `verification of backup ${name}`,
              path: `backup.${name}.verify_schedule`,
              schedule: spec.verify_schedule,
              argv: ['backup', 'verify', '--job', name],
              ping: undefined,
            },
          ]
    return [...take, ...verify]
  })
}

function archiveJobs(host: Host): Job[] {
  if (host.archive === undefined) return []
  return [
    {
      ...timingOf(host, {}),
      ...archiveNeeds(host),
      name: 'archive-check',
      title: 'check of the WAL archive',
      path: 'archive.check',
      schedule: host.archive.check,
      randomizedDelay: '0s',
      persistent: false,
      argv: ['archive', 'status'],
      ping: undefined,
    },
  ]
}

function reingestJobs(host: Host): Job[] {
  return Object.entries(host.reingest).flatMap(([name, spec]): Job[] => {
    if (spec.schedule === undefined) return []
    const { timezone: _ofFiles, ...own } = spec
    return [
      {
        ...timingOf(host, own),
        ...reingestNeeds(host, name, spec),
        name: `reingest-${name}`,
        title: `reingest ${name}`,
        path: `reingest.${name}.schedule`,
        schedule: spec.schedule,
        argv: ['reingest', 'run', name],
        ping: spec.ping,
      },
    ]
  })
}

function reingestNeeds(host: Host, name: string, spec: ReingestSpec): Omit<Needs, 'argv'> {
  return { ...needsOf(host, `reingest.${name}`, spec), reads: spec.data_dirs }
}

/** Looks after all others. */
function checkJob(host: Host): Job {
  const { user } = needsOf(host, 'schedule', { on_failure: [] })
  return {
    ...timingOf(host, {}),
    name: 'check',
    title: 'check of the scheduled jobs',
    path: 'schedule.check',
    schedule: host.schedule.check,
    randomizedDelay: '0s',
    persistent: false,
    runtimeLimit: '10min',
    user,
    argv: ['schedule', 'notify'],
    credentials: alertCredentials(host),
    writes: [host.host.state_dir],
    reads: [],
    network: true,
    onFailure: [],
    ping: undefined,
    isAlert: true,
  }
}

/** Names of the credentials by which people are told. Pure. */
export function alertCredentials(host: Host): string[] {
  const jobs = [...Object.values(host.backup), ...Object.values(host.reingest)]
  return credentialsIn([host.notify, host.schedule.ping, jobs.map(({ ping }) => ping)])
}

type Timing = Pick<Job, 'timezone' | 'randomizedDelay' | 'persistent' | 'runtimeLimit' | 'grace' | 'isAlert'>

function timingOf({ schedule }: Host, own: Own): Timing {
  return {
    timezone: own.timezone ?? schedule.timezone,
    randomizedDelay: own.randomized_delay ?? schedule.randomized_delay,
    persistent: own.persistent ?? schedule.persistent,
    runtimeLimit: own.runtime_limit ?? schedule.runtime_limit,
    grace: own.grace ?? schedule.grace,
    isAlert: false,
  }
}

type TimingKey = 'timezone' | 'randomized_delay' | 'persistent' | 'runtime_limit' | 'grace'
type Own = Partial<Pick<Host['backup'][string], TimingKey>>

/** Names of stores. */
interface Opened {
  /** Those that it writes to, too. */
  readonly reads: readonly string[]
  readonly writes: readonly string[]
}

interface Wanting {
  readonly user?: string | undefined
  readonly opens?: Opened
  readonly ping?: AddressSpec | undefined
  readonly on_failure?: readonly string[] | undefined
}

function archiveNeeds(host: Host): Omit<Needs, 'argv'> {
  const { store, ...own } = host.archive!
  return needsOf(host, 'archive', { ...own, opens: { reads: [store], writes: [store] } })
}

function needsOf(host: Host, path: string, own: Wanting): Omit<Needs, 'argv'> {
  const specsOf = (names: readonly string[] = []) => [...new Set(names)].map((name) => host.store[name]!)
  const stores = specsOf(own.opens?.reads)
  const user = own.user ?? defaultUser(host)
  if (user === undefined) {
    throw new Fail('host-file', `${path}: a job of a ${host.postgres.kind} cluster has no user`, {
      hint: 'Name the OS user that runs it: [schedule] user = "..."',
    })
  }
  return {
    user,
    credentials: credentialsIn([host.postgres, stores, host.encryption, own.ping]),
    writes: [
      host.host.state_dir,
      ...specsOf(own.opens?.writes).flatMap((store) => (store.type === 'dir' ? [store.path] : [])),
      ...(host.schedule.metrics_dir === undefined ? [] : [host.schedule.metrics_dir]),
    ],
    reads: [],
    network:
      stores.some(({ type }) => type === 's3') || host.postgres.kind === 'remote' || own.ping !== undefined,
    onFailure: own.on_failure ?? host.schedule.on_failure,
  }
}

/**
 * Who runs the jobs that do not say it: the owner of the cluster, who of a private one is the OS user whom peer
 * lets in as the superuser. Undefined for a remote one. Pure.
 */
export function defaultUser({ schedule, postgres: { kind, superuser } }: Host): string | undefined {
  if (schedule.user !== undefined || kind === 'remote') return schedule.user
  return kind === 'debian' ? 'postgres' : superuser
}

/** Names of the credentials that some part of a host file refers to, sorted. */
function credentialsIn(value: unknown): string[] {
  const found = new Set<string>()
  const look = (value: unknown) => {
    if (typeof value !== 'object' || value === null) return
    const { credential } = value as Partial<Extract<SecretRef, { credential: string }>>
    if (typeof credential === 'string') found.add(credential)
    else for (const inner of Object.values(value)) look(inner)
  }
  look(value)
  return [...found].toSorted()
}
