import { z } from 'zod'
import { jobKeys } from './schedule-schema.ts'
import { absolutePath, databaseName, duration, name, zoneName } from './value.ts'

/** Names of files end in this; what comes before is the device and the time. */
const fileEnding = z.string().regex(/^\.[A-Za-z0-9]+(\.[A-Za-z0-9]+)*$/, 'an ending looks like ".bintel"')

const pattern = z.string().refine((text) => isPattern(text), 'this is no regular expression')

function isPattern(text: string): boolean {
  try {
    return new RegExp(text, 'v') instanceof RegExp
  } catch {
    return false
  }
}

/** `[reingest.NAME]`: a table that is filled again from the files that its rows came from. */
export const reingest = z.strictObject({
  database: databaseName.describe('the name of a [databases.NAME]'),
  role: name
    .optional()
    .describe('who writes the rows; default: the one of its migrations, or the owner of the database'),
  hostname: z
    .string()
    .min(1)
    .max(50, 'an origin host has at most 50 characters')
    .optional()
    .describe("whose files are read; default: this machine's host name"),
  data_dirs: z.array(absolutePath).default([]).describe('folders that are looked through for files'),
  ignore_files: z
    .array(pattern)
    .default([String.raw`.*\.DS_Store`, String.raw`.+\.swp`, '.+~'])
    .describe('names of files that are passed over: regular expressions for all of the name'),
  ignore_folders: z
    .array(pattern)
    .default([String.raw`.*\.git.*`])
    .describe('the same for folders'),
  decoders: z
    .record(fileEnding, z.array(z.string().min(1)).min(1))
    .default({})
    .describe(
      'programs that read a file, which is their last argument, and print a line of JSON for each record',
    ),
  timezone: zoneName.default('UTC').describe('of times in .ndjson and .csv files that name none'),
  jobs: z.int().min(1).max(64).default(2).describe('files that are read at the same time'),
  limit: z.int().min(0).default(0).describe('files that one run reads at most; 0: all that need it'),
  watch: z.boolean().default(false).describe('a service reads files as they are written'),
  walk_every: duration
    .default('10min')
    .describe('watch: how often all folders are looked through, whatever was noticed'),
  // Its "timezone" is that of the files; its runs have the one of [schedule].
  schedule: jobKeys.schedule,
  randomized_delay: jobKeys.randomized_delay,
  persistent: jobKeys.persistent,
  user: jobKeys.user,
  runtime_limit: jobKeys.runtime_limit,
  grace: jobKeys.grace,
  on_failure: jobKeys.on_failure,
  ping: jobKeys.ping,
})

/** One `[reingest.NAME]` of a host file. */
export type ReingestSpec = z.output<typeof reingest>
