import { describe, expect, test } from 'vitest'
import { coveringJob } from '../../scripts/backup/before.ts'
import { parseHost } from '../../scripts/host/host.ts'

// That it is taken, and first, is in test/inspect.test.ts.

const host = (jobs: string) =>
  parseHost(`format = 1
[host]
name = "db1"
[postgres]
major = 15
[store.local]
type = "dir"
path = "/srv/backups"
${jobs}`)

const DUMP = '[backup.dump]\nkind = "dump"\nstore = "local"\n'
const BASE = '[backup.base]\nkind = "base"\nstore = "local"\n'
const other = DUMP.replace('.dump]', '.other]') + 'databases = ["other", "a b"]\n'

describe('the job whose backups have a database', () => {
  test.each([
    ['a dump of all', DUMP, 'app', 'dump'],
    ['a dump rather than a base backup, as it is restored by itself', BASE + DUMP, 'app', 'dump'],
    ['a base backup has all of them', other + BASE, 'app', 'base'],
    ['a dump that names it', BASE + other, 'a b', 'other'],
  ])('%s', (_title, jobs, database, job) => {
    expect(coveringJob(host(jobs), database)).toBe(job)
  })

  test.each([
    ['there is none', ''],
    ['it is a dump of others', other],
  ])('%s: is refused, with what to add', (_title, jobs) => {
    expect(() => coveringJob(host(jobs), 'app')).toThrow('no job covers it')
  })
})
