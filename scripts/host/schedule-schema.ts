import { z } from 'zod'
import { absolutePath, duration, secret } from './value.ts'

const userName = z.string().regex(/^[a-z_][a-z0-9_-]{0,31}$/, 'this is no name of an OS user')

const notifyName = z.string().regex(/^[A-Za-z0-9_.-]+$/, 'this is no name of a [notify.NAME]')

const timezone = z
  .string()
  .regex(/^[A-Za-z][A-Za-z0-9_+-]*(\/[A-Za-z0-9_+-]+)*$/, 'a time zone looks like "Europe/Vienna"')

/** An address that may hold a token: as text, or as a secret. */
const address = z.union(
  [z.string().regex(/^https?:\/\/[^\s@]+$/), secret],
  'an address looks like "https://hooks.example.org/x"; one that is secret is { file = "/path" } or { credential = "name" }',
)

/** When a job runs: cron, or a systemd calendar expression. What it means is checked where jobs are made of it. */
export const schedule = z.string().min(1)

const INHERITED = 'default: as in [schedule]'

/** What each job can say by itself; `[schedule]` has the same keys for all of them. */
export const jobKeys = {
  schedule: schedule
    .optional()
    .describe('cron ("0 2 * * *") or a systemd calendar expression; left out: by hand only'),
  timezone: timezone.optional().describe(INHERITED),
  randomized_delay: duration.optional().describe(INHERITED),
  persistent: z.boolean().optional().describe(INHERITED),
  user: userName.optional().describe(INHERITED),
  runtime_limit: duration.optional().describe(INHERITED),
  lock_wait: duration.optional().describe(INHERITED),
  grace: duration.optional().describe(INHERITED),
  on_failure: z.array(notifyName).optional().describe(INHERITED),
  ping: address.optional().describe('asked after each success: an address of a dead-man switch'),
} as const

/** `[schedule]`: what holds for every job that does not say otherwise. */
export const scheduleDefaults = z.strictObject({
  timezone: timezone.default('UTC').describe('an IANA name; where clocks are changed some times are skipped'),
  randomized_delay: duration.default('0s').describe('a job begins up to this much later, always by the same'),
  persistent: z.boolean().default(true).describe('a run missed while the host was off is made up for'),
  user: userName.optional().describe('OS user of the jobs; default: the owner of the cluster'),
  runtime_limit: duration.default('24h').describe('a job that runs longer is ended'),
  lock_wait: duration
    .default('1h')
    .describe('how long a job waits for another one that has what it needs; "0s": it is skipped'),
  server_wait: duration
    .default('5min')
    .describe('how long a job waits for a server that does not answer yet'),
  grace: duration.default('1h').describe('how late a success may be before it is missed'),
  on_failure: z
    .array(notifyName)
    .default([])
    .describe('names of [notify.NAME]: told of failures and recoveries'),
  remind: duration.default('24h').describe('how often a failure that lasts is told again'),
  check: schedule.default('*/15 * * * *').describe('when it is looked whether successes are missed'),
  ping: address
    .optional()
    .describe(
      'asked after each check that could tell everybody: who looks after the jobs is looked after, too',
    ),
  metrics_dir: absolutePath.optional().describe("folder of node_exporter's textfile collector"),
  unit_prefix: z
    .string()
    .regex(/^[a-z][a-z0-9]*$/, 'a prefix of units has small letters and digits')
    .default('howdah')
    .describe('units are called PREFIX-JOB; each host file of a host needs its own'),
})

/** `[notify.NAME]`: who is told, by a program or over HTTP. */
export const notify = z
  .strictObject({
    command: z
      .array(z.string().min(1))
      .min(1)
      .optional()
      .describe(
        'reads a mail on its standard input, headers first; HOWDAH_* say the same in the environment',
      ),
    to: z
      .string()
      .regex(/^[^\r\n]+$/, 'this is one line')
      .default('root')
      .describe('command: the "To:" of the mail'),
    privileged: z
      .boolean()
      .default(false)
      .describe('command: it runs as root; the sendmail of exim4 and of postfix needs that'),
    webhook: address
      .optional()
      .describe('instead of command: gets a JSON document by POST; its "text" is what chat programs show'),
    authorization: secret.optional().describe('webhook: the header Authorization'),
  })
  .superRefine((value, context) => {
    if ((value.command === undefined) !== (value.webhook === undefined)) return
    context.addIssue({ code: 'custom', path: [], message: 'this needs either a "command" or a "webhook"' })
  })

/** One `[notify.NAME]` of a host file. */
export type NotifySpec = z.output<typeof notify>
/** An address: itself, or where it comes from. */
export type AddressSpec = z.output<typeof address>
