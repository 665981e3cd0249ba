import { createHash } from 'node:crypto'
import { debianUnit } from '../cluster/debian.ts'
import { parseDuration } from '../core/quantity.ts'
import type { Host } from '../host/schema.ts'
import { calendarOf } from './calendar.ts'
import { execLine, pathWord, plainText, unitName } from './escape.ts'
import { hardeningLines, tellsAsRoot } from './hardening.ts'
import { alertCredentials, type Job, jobsOf, type Service, servicesOf } from './job.ts'
import { fillTemplate, readTemplate, type Values } from './templates.ts'

/** A unit file, or another file that goes with units. */
export interface UnitFile {
  /** Without its folder. */
  readonly name: string
  readonly content: string
}

/** What units depend on besides the host file. */
export interface UnitFacts {
  /** Version of systemd: some keys came late. */
  readonly systemd: number
  /** Where the program is: `/opt/howdah/current`. */
  readonly program: string
  /** Absolute. */
  readonly hostFile: string
}

/**
 * The units of a host file, as they are to be installed; none when nothing is scheduled. Pure but for the
 * templates, which come with the program.
 * @throws {Fail} `host-file` for what a unit cannot say
 */
export function renderUnits(host: Host, facts: UnitFacts): UnitFile[] {
  const render = new Render(host, facts)
  const jobs = jobsOf(host)
  if (jobs.length === 0) return []
  return [
    ...servicesOf(host).map((service) => render.service(service)),
    ...jobs.flatMap((job) => [job.isAlert ? render.check(job) : render.job(job), render.timer(job)]),
    render.alert(jobs.find(({ isAlert }) => isAlert)!),
  ]
}

/**
 * Name of the service of a job or a service. Pure.
 * @throws {Fail} `host-file` when it is too long for systemd, or that of the alert that tells of it is
 */
export function serviceName(host: Host, name: string): string {
  const { unit_prefix: prefix } = host.schedule
  return unitName(`${prefix}-${name}.service`, `${prefix}-alert@.service`.length)
}

/** Name of the timer of a job. Pure. */
export function timerName(host: Host, name: string): string {
  return unitName(`${host.schedule.unit_prefix}-${name}.timer`)
}

class Render {
  readonly #host: Host
  readonly #facts: UnitFacts

  constructor(host: Host, facts: UnitFacts) {
    this.#host = host
    this.#facts = facts
  }

  job(job: Job): UnitFile {
    return this.#file('job.service', serviceName(this.#host, job.name), {
      ...this.#common(job, false),
      title: plainText(job.title),
      on_failure: this.#alertUnit,
      // It came with 249; where it is not known, the check tells of a recovery.
      on_success: this.#facts.systemd >= 249 && job.onFailure.length > 0 ? this.#alertUnit : undefined,
      exec_prepare: this.#exec(['schedule', 'prepare', job.name]),
      exec_start: this.#exec(job.argv),
      exec_record: this.#exec(['schedule', 'record', job.name]),
      runtime_limit: timeSpan(job.runtimeLimit),
    })
  }

  check(job: Job): UnitFile {
    return this.#file('check.service', serviceName(this.#host, job.name), {
      ...this.#common({ ...job, user: this.#alertUser(job) }, true),
      title: plainText(job.title),
      exec_start: this.#exec(job.argv),
      runtime_limit: timeSpan(job.runtimeLimit),
    })
  }

  timer(job: Job): UnitFile {
    const delay = parseDuration(job.randomizedDelay)! > 0
    return this.#file('job.timer', timerName(this.#host, job.name), {
      title: plainText(job.title),
      calendar: calendarOf(job.schedule, job.timezone).lines.map((line) => line.replaceAll('%', '%%')),
      persistent: job.persistent ? 'yes' : 'no',
      randomized_delay: delay ? timeSpan(job.randomizedDelay) : undefined,
      // 247: without it every start of systemd would throw the dice anew.
      fixed_delay: delay && this.#facts.systemd >= 247 ? 'yes' : undefined,
    })
  }

  alert(check: Job): UnitFile {
    const { unit_prefix: prefix } = this.#host.schedule
    const user = this.#alertUser(check)
    const needs = { ...check, user, credentials: alertCredentials(this.#host) }
    return this.#file('alert@.service', `${prefix}-alert@.service`, {
      ...this.#common(needs, true),
      exec_start: `${this.#exec(['schedule', 'notify', '--unit'])} %i`,
    })
  }

  service(service: Service): UnitFile {
    const { systemd } = this.#facts
    return this.#file(`${service.template}.service`, serviceName(this.#host, service.name), {
      ...this.#common({ ...service, isAlert: false }, false),
      title: plainText(service.title),
      on_failure: this.#alertUnit,
      exec_start: this.#exec(service.argv),
      // It reads the host file when it starts: another content is another unit, so that it is started again.
      content: contentHash(this.#host, service),
      // A service that began without the disk would not see it come. A job has no such line: a mount that fails would
      // end it as if nobody had asked for it, and nobody would be told; its store refuses a disk that is not there.
      mounts: service.writes.filter((path) => this.#isStore(path)).map((path) => pathWord('', path)),
      restart: systemd >= 254 ? '1s' : '10s',
      restart_steps: systemd >= 254 ? '8' : undefined,
      restart_most: systemd >= 254 ? '2min' : undefined,
    })
  }

  #isStore(path: string): boolean {
    return Object.values(this.#host.store).some((spec) => spec.type === 'dir' && spec.path === path)
  }

  get #alertUnit(): string {
    return `${this.#host.schedule.unit_prefix}-alert@%n.service`
  }

  #alertUser({ user }: Job): string {
    return tellsAsRoot(this.#host) ? 'root' : user
  }

  #exec(argv: readonly string[]): string {
    const { program, hostFile } = this.#facts
    const isNotify = argv.at(-1) === '--unit' // its value follows
    const file = ['-c', hostFile]
    const [script, verb, ...rest] = argv
    const all = isNotify ? [script!, verb!, ...file, ...rest] : [...argv, ...file]
    return execLine([`${program}/scripts/howdah`, ...all])
  }

  #common(
    job: Pick<Job, 'user' | 'credentials' | 'writes' | 'network' | 'isAlert'>,
    readsJournal: boolean,
  ): Values {
    const { postgres, schedule } = this.#host
    // Ordered after it only: a server that was stopped on purpose is not started by a backup.
    const cluster = postgres.kind === 'debian' ? [debianUnit(postgres)] : []
    const network = job.network ? ['network-online.target'] : []
    const after = [...cluster, ...network]
    return {
      user: job.user,
      after: after.length === 0 ? undefined : after.join(' '),
      wants: network,
      // Debian 12's finds it by its name, in an encrypted store, too; those before want the path.
      credential: job.credentials.map((name) =>
        this.#facts.systemd >= 252 ? name : `${name}:/etc/credstore/${name}`,
      ),
      groups: readsJournal && job.user !== 'root' ? 'systemd-journal' : undefined,
      identifier: schedule.unit_prefix,
      cache: `howdah/${job.user}`,
      writes: [...job.writes, '/run/lock/howdah'].map((path) => pathWord('-', path)),
      hardening: hardeningLines({ user: job.user, isAlert: job.isAlert, host: this.#host }),
    }
  }

  #file(template: string, name: string, values: Values): UnitFile {
    const body = fillTemplate(readTemplate(template), values)
    const mark = `\n${MARK}\nHostFile=${jsonText(this.#facts.hostFile)}\nHash=${hashOf(body)}\n`
    return { name, content: body + mark }
  }
}

/** A section that systemd passes over. */
const MARK = '[X-Howdah]'

/** What the mark of a unit says. */
export interface Mark {
  /** The host file that it was made for. */
  readonly hostFile: string
  /** Of what stands above the mark, when it was made; undefined when somebody took it away. */
  readonly hash: string | undefined
  /** Somebody has changed it since. */
  readonly isEdited: boolean
}

/** The mark of a unit; undefined when it is not ours, or says not whose it is. Pure. */
export function parseMark(content: string): Mark | undefined {
  const at = content.lastIndexOf(`\n${MARK}\n`)
  if (at === -1) return undefined
  const [body, mark] = [content.slice(0, at), content.slice(at + 1)]
  const hostFile = textOf(/^HostFile=(.*)$/m.exec(mark)?.[1])
  if (hostFile === undefined) return undefined
  const hash = /^Hash=([0-9a-f]{64})$/m.exec(mark)?.[1]
  const isWhole = mark === `${MARK}\nHostFile=${jsonText(hostFile)}\nHash=${hash}\n`
  return { hostFile, hash, isEdited: !isWhole || hashOf(body) !== hash }
}

/** JSON for one line of ASCII: systemd reads no unit that has a code point in it which is no character. */
function jsonText(text: string): string {
  return JSON.stringify(text).replaceAll(
    /[^ -~]/g,
    (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`,
  )
}

function textOf(json: string | undefined): string | undefined {
  try {
    const value: unknown = JSON.parse(json ?? '')
    return typeof value === 'string' ? value : undefined
  } catch {
    return undefined
  }
}

/** Of what a service reads of a host file. */
function contentHash({ host, postgres }: Host, { content }: Service): string {
  return hashOf(JSON.stringify([host, postgres, content])).slice(0, 16)
}

function hashOf(body: string): string {
  return createHash('sha256').update(body).digest('hex')
}

/** A time as systemd has it (systemd.time(7)): in seconds, or less. */
function timeSpan(duration: string): string {
  const milliseconds = Math.round(parseDuration(duration)! * 1000)
  return milliseconds % 1000 === 0 ? `${milliseconds / 1000}s` : `${milliseconds}ms`
}
