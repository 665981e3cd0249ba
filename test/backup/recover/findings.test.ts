import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { collationFindings } from '../../../scripts/backup/recover/collations.ts'
import { spaceFindings } from '../../../scripts/backup/recover/findings.ts'
import { clusterClock } from '../../../scripts/backup/recover/times.ts'
import { type RecoverSource, recoverSource } from '../../support/recover.ts'

let source: RecoverSource
const hostile = 'shop "the other"; drop'

beforeAll(async () => {
  source = await recoverSource()
  const { server } = source
  const quoted = `"${hostile.replaceAll('"', '""')}"`
  const icu = `locale_provider icu icu_locale 'de' template template0 encoding 'utf8' locale 'C.UTF-8'`
  await server.query('postgres', `create database ${quoted} ${icu}`)
  await server.query('postgres', `create database fine ${icu}`)
  for (const name of [hostile, 'fine']) {
    await server.query(name, 'create table t (a text collate "sv-x-icu" primary key)')
    // Nothing uses it.
    await server.query(name, `update pg_collation set collversion = '0.3' where collname = 'da-x-icu'`)
  }
  await server.query(hostile, `update pg_collation set collversion = '0.2' where collname = 'sv-x-icu'`)
  await server.query('postgres', `update pg_database set datcollversion = '0.1' where datname = $1`, [
    hostile,
  ])
  await source.take()
})

afterAll(() => source[Symbol.asyncDispose]())

describe('restore of a cluster whose texts were sorted by other libraries', () => {
  test('an index on text would give wrong answers without an error: the database is named with what mends it', async () => {
    await using copy = await source.copy('--immediate')
    const [finding, ...others] = copy.result['findings'] as { text: string; hint: string }[]
    expect(others).toEqual([])
    expect(finding).toMatchObject({
      level: 'warning',
      text: expect.stringMatching(
        /database "shop ""the other""; drop" .*its own: 0\.1, here [0-9.]+; "pg_catalog"\."sv-x-icu": 0\.2, here [0-9.]+\)/,
      ),
    })
    for (const command of finding!.hint.replace('In that database: ', '').split(/; (?=[A-Z])/))
      await copy.query(hostile, command)
    expect(await collationFindings(copy.cluster)).toEqual([])
  })
})

test('file systems with room, and one with a byte too little: only that one is in the way', () => {
  const spaces = [
    { path: '/srv/data', needs: 1_000_000, free: 1_000_000 },
    { path: '/srv/side', needs: 2_000_001, free: 2_000_000 },
  ]
  expect(spaceFindings(spaces)).toEqual([
    expect.objectContaining({
      level: 'impossible',
      code: 'no-space',
      text: expect.stringContaining('"/srv/side" needs 1.9 MB, that is 1 B more'),
    }),
  ])
})

test('the parts of a restore: each until it ends, what is in between is of the next one', () => {
  let now = 0
  const clock = clusterClock(() => now)
  for (const [phase, at] of [
    ['planned', 1000],
    ['fetched', 9000],
    ['recovered', 12_000.4],
    ['decided', 12_100],
    ['swapped', 12_500],
    ['started', 13_000],
  ] as const) {
    now = at
    clock.onPhase(phase)
  }
  expect(clock.times()).toEqual({ fetch: 8000, recovery: 3000, handover: 1000 })
  expect(String(clock)).toBe('8.00 s copying, 3.00 s recovery, 1.00 s handover')
})
