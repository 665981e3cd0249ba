import { z } from 'zod'
import { parseDuration, parseSize } from '../core/quantity.ts'

/** PostgreSQL cuts longer names at NAMEDATALEN - 1 bytes with a notice only (src/include/pg_config_manual.h). */
const NAME_BYTES = 63

/** A name in the server: 1 to 63 bytes. */
export const name = z
  .string()
  .min(1, 'a name must not be empty')
  .refine((text) => Buffer.byteLength(text) <= NAME_BYTES, {
    error: (issue) =>
      `a name has at most ${NAME_BYTES} bytes: this one has ${Buffer.byteLength(String(issue.input))}`,
  })
  .refine((text) => !text.includes('\0'), 'a name must not hold a NUL byte')

/** A database that can be written to. */
export const databaseName = name.refine(
  (text) => text !== 'template0',
  'template0 must stay as it is: name another database',
)

/** Bytes as text: `"64MB"`. */
export const size = z
  .string()
  .refine((text) => parseSize(text) !== undefined, 'a size is a number with a unit, such as "64MB"')
/** A time as text: `"30d"`. */
export const duration = z
  .string()
  .refine((text) => parseDuration(text) !== undefined, 'a time is a number with a unit, such as "30d"')
/** A path from the root. */
export const absolutePath = z
  .string()
  .startsWith('/', 'a path must be absolute')
  .refine((text) => !/[\0\n]/.test(text), 'a path must not hold a NUL byte or a line break')

/** A secret, by reference only. */
export const secret = z
  .union(
    [
      z.strictObject({ file: absolutePath }),
      z.strictObject({ env: z.string().regex(/^[A-Za-z_][A-Za-z0-9_]*$/, 'this is no name of a variable') }),
      z.strictObject({
        credential: z.string().regex(/^[A-Za-z0-9_.-]+$/, 'this is no name of a credential'),
      }),
      z.strictObject({ command: z.array(z.string()).min(1) }),
    ],
    'a secret is never in the file itself: use { file = "/path" }, { env = "NAME" }, { credential = "name" } or { command = [...] }',
  )
  .describe('a secret by reference: { file }, { env }, { credential } or { command }')

/** A time zone by its IANA name. */
export const zoneName = z
  .string()
  .regex(/^[A-Za-z][A-Za-z0-9_+-]*(\/[A-Za-z0-9_+-]+)*$/, 'a time zone looks like "Europe/Vienna"')
