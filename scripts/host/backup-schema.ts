import { z } from 'zod'
import { jobKeys, schedule } from './schedule-schema.ts'
import { absolutePath, databaseName, duration, secret, size } from './value.ts'

const dirStore = z.strictObject({ type: z.literal('dir'), path: absolutePath })

const s3Store = z.strictObject({
  type: z.literal('s3'),
  bucket: z.string().regex(/^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$/, 'this is no name of a bucket'),
  prefix: z
    .string()
    .regex(/^[A-Za-z0-9_-][A-Za-z0-9_.-]*(\/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*$/, 'a prefix looks like "prod/db"')
    .optional()
    .describe('put before every key'),
  region: z.string().min(1).default('us-east-1'),
  endpoint: z
    .string()
    .regex(/^https?:\/\/[^/?#@]+$/, 'an endpoint looks like "https://s3.example.org"')
    .optional()
    .describe("default: AWS's of the region"),
  path_style: z
    .boolean()
    .optional()
    .describe('bucket in the path, not in the host name; default: true with an endpoint'),
  access_key: secret.optional().describe("default: what the SDK finds by itself, such as the machine's role"),
  secret_key: secret.optional(),
  session_token: secret.optional(),
  ca_file: absolutePath.optional().describe("certificates of the endpoint's authority"),
})

/** `[store.NAME]`: where backups and WAL rest. */
export const store = z.discriminatedUnion('type', [dirStore, s3Store]).superRefine((value, context) => {
  if (value.type !== 's3' || (value.access_key === undefined) === (value.secret_key === undefined)) return
  const path = value.access_key === undefined ? 'access_key' : 'secret_key' // the one that is missing
  context.addIssue({ code: 'custom', path: [path], message: 'access_key and secret_key come together' })
})

/** `[encryption]`: who can read them. */
export const encryption = z.strictObject({
  recipients: z
    .array(
      z
        .string()
        .regex(/^(age1[0-9a-z]+|ssh-(ed25519|rsa) [A-Za-z0-9+/=]+.*)$/, 'a recipient looks like "age1..."'),
    )
    .min(1)
    .describe('public keys of age: each of their owners can restore'),
  identity: secret
    .optional()
    .describe('the private key; only where this host is to read its own backups (drills)'),
})

/** Which backups stay, with the meaning that restic gave these words. */
export const keep = z.strictObject({
  last: z.int().positive().optional(),
  hourly: z.int().positive().optional(),
  daily: z.int().positive().optional(),
  weekly: z.int().positive().optional(),
  monthly: z.int().positive().optional(),
  yearly: z.int().positive().optional(),
  within: duration.optional().describe('every backup that is younger'),
})

/** `[backup.NAME]`: a job that takes backups. */
export const backup = z
  .strictObject({
    kind: z.enum(['dump', 'base', 'incr']),
    databases: z.array(databaseName).min(1).optional().describe('dump: default all that can be connected to'),
    store: z.string().describe('the name of a [store.NAME]'),
    jobs: z.int().positive().default(2).describe('dump: databases at once'),
    compression_level: z.int().min(1).max(19).default(3),
    rate_limit: size.optional().describe('bytes a second at most'),
    checkpoint: z
      .enum(['fast', 'spread'])
      .default('fast')
      .describe('base, incr: how the checkpoint at the start is done'),
    full_every: duration.default('7d').describe('incr: a base is made instead when the last one is older'),
    keep: keep.optional().describe('which backups prune keeps; left out: all of them'),
    pitr: duration.optional().describe('any moment of this time back can be restored'),
    prune: z.boolean().default(true).describe('a scheduled run removes afterwards what "keep" does not keep'),
    verify_schedule: schedule.optional().describe('when "backup verify --job NAME" runs'),
    ...jobKeys,
  })
  .superRefine((value, context) => {
    const refuse = (key: 'databases' | 'pitr', message: string) => {
      if (value[key] !== undefined) context.addIssue({ code: 'custom', path: [key], message })
    }
    if (value.kind === 'dump') refuse('pitr', 'a dump is one moment: "pitr" is for kind "base" and "incr"')
    else refuse('databases', `kind "${value.kind}" has the whole cluster: "databases" is for kind "dump"`)
  })

/** `[archive]`: the service that stores the WAL. */
export const archive = z.strictObject({
  store: z.string().describe('the name of a [store.NAME]'),
  slot: z
    .string()
    .regex(/^[a-z0-9_]{1,63}$/, 'a slot name has lower-case letters, digits and "_"')
    .default('howdah'),
  partial_every: duration.default('5s').describe('how often the segment that is being written is stored'),
  spool_limit: size.default('4GB').describe('above it receiving stops, and the slot holds the WAL'),
  max_loss: duration.default('60s').describe('what "archive status" finds too much'),
  compression_level: z.int().min(1).max(19).default(3),
  check: schedule
    .default('*/5 * * * *')
    .describe('when "archive status" looks whether the loss is above max_loss'),
  user: jobKeys.user,
  on_failure: jobKeys.on_failure,
})

/** One store of a host file. */
export type StoreSpec = z.output<typeof store>
/** One job of a host file. */
export type BackupSpec = z.output<typeof backup>
/** The archive service of a host file. */
export type ArchiveSpec = z.output<typeof archive>
/** What a job keeps. */
export type KeepSpec = z.output<typeof keep>
