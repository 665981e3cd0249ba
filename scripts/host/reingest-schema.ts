import { z } from 'zod'
import { databaseName, name, zoneName } from './value.ts'

/** Names of files end in this; what comes before is the device and the time. */
const fileEnding = z.string().regex(/^\.[A-Za-z0-9]+(\.[A-Za-z0-9]+)*$/, 'an ending looks like ".bintel"')

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
  decoders: z
    .record(fileEnding, z.array(z.string().min(1)).min(1))
    .default({})
    .describe(
      'programs that read a file, which is their last argument, and print a line of JSON for each record',
    ),
  timezone: zoneName.default('UTC').describe('of times in .ndjson and .csv files that name none'),
  jobs: z.int().min(1).max(64).default(2).describe('files that are read at the same time'),
})
