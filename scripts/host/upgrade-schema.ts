import { z } from 'zod'
import { duration } from './value.ts'

/** `[upgrade]`: how a cluster goes to another major. */
export const upgrade = z.strictObject({
  method: z
    .enum(['auto', 'copy', 'clone', 'link', 'swap', 'dump'])
    .default('auto')
    .describe('auto: clone where the file system can, else copy where there is space'),
  verify: z
    .enum(['catalog', 'counts', 'content'])
    .default('counts')
    .describe('what is proved to be the same: definitions, the number of rows too, or what they hold'),
  keep_old: duration.default('7d').describe('how long the old cluster stays before it can be dropped'),
})
