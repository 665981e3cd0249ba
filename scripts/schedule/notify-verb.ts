import process from 'node:process'
import { loadHost } from '../cluster/open.ts'
import type { Call, Outcome, Verb } from '../core/cli.ts'
import { Fail } from '../core/fail.ts'
import { exists } from '../core/file.ts'
import { currentUser } from '../core/user.ts'
import type { Host } from '../host/schema.ts'
import { defaultUser } from './job.ts'
import { lastInstalled, loadKnownHost } from './known-host.ts'
import { notify, type NotifyScope, TRIAL } from './notify.ts'
import { pingAfter } from './ping.ts'
import { isBooted, systemctl, UNIT_FOLDER } from './systemd.ts'

/** `schedule notify` */
export const notifyVerb: Verb = {
  name: 'notify',
  summary: 'tell of failures, missed successes and recoveries that nobody was told of yet',
  options: [
    { flags: '--unit <unit>', help: 'of this unit only: for units, as OnFailure=' },
    { flags: '--test', help: 'tell everybody that this is a trial, as the installed units would' },
  ],
  common: ['file'],
  fails: ['host-file', 'file-unreadable', 'not-permitted', 'lock-held', 'command-failed'],
  run,
}

async function run(call: Call): Promise<Outcome> {
  const { unit, test: isTrial } = call.options
  if (isTrial === true) return tryOut(call)
  const host = await loadKnownHost(call.file, call.overrides)
  assertUser(host)
  if (typeof unit === 'string') {
    const { MONITOR_SERVICE_RESULT: result } = process.env
    return tell(host, { unit, result, installed: await lastInstalled(call.file) })
  }
  const outcome = await tell(host, {})
  await pingAfter('check', host.schedule.ping)
  return outcome
}

/** Whoever cannot read what is remembered of the jobs would tell that all of them have failed. */
function assertUser(host: Host): void {
  const [user, me] = [defaultUser(host), currentUser()]
  if (process.getuid?.() === 0 || user === undefined || user === me) return
  throw new Fail(
    'not-permitted',
    `only ${user === 'root' ? user : `${user} and root`} may tell of these jobs, this is ${me}`,
    {
      hint: 'Run the same command as root; howdah schedule list needs no rights but to read.',
    },
  )
}

/** By the installed alert where there is one: its rights are what a trial is for. */
async function tryOut(call: Call): Promise<Outcome> {
  const { host } = await loadHost(call.file, call.overrides)
  if (Object.keys(host.notify).length === 0) {
    throw new Fail('host-file', 'there is nobody to tell: the host file has no [notify.NAME]', {
      hint: 'Name somebody: [notify.mail] command = ["/usr/sbin/sendmail", "-t"], to = "root"',
    })
  }
  const alert = `${host.schedule.unit_prefix}-alert@`
  const isInstalled = (await isBooted()) && (await exists(`${UNIT_FOLDER}/${alert}.service`))
  if (!isInstalled || process.getuid?.() !== 0) return tell(host, { unit: TRIAL })
  const unit = `${alert}${TRIAL}.service`
  await systemctl(['start', '--', unit]).catch((cause: unknown) => {
    throw new Fail('command-failed', `not everybody could be told by ${unit}`, {
      hint: `See why: journalctl --unit=${unit} --lines=20`,
      cause,
    })
  })
  const told = { job: TRIAL, state: 'trial', to: Object.keys(host.notify), missed: [] }
  return { text: `told ${told.to.join(', ')}: ${TRIAL}, by ${unit}`, result: { told: [told] } }
}

async function tell(host: Host, scope: NotifyScope): Promise<Outcome> {
  const told = await notify(host, scope)
  const missed = told.filter(({ missed }) => missed.length > 0)
  if (missed.length > 0) {
    const whom = missed.map(({ job, missed }) => `${missed.join(', ')} of ${job}`).join('; ')
    throw new Fail('command-failed', `not everybody could be told: ${whom}`, {
      hint: 'It stays due, and is tried again by each: howdah schedule notify',
    })
  }
  const lines = told.map(({ job, state, to }) => `told ${to.join(', ') || 'nobody'}: ${job} ${state}`)
  return { text: lines.join('\n') || 'nothing is due', result: { told } }
}
