import { expect, test } from 'vitest'
import {
  assertPossible,
  planRestore,
  type RestoreRequest,
  showRestorePlan,
  suffixed,
  type TargetFacts,
} from '../../scripts/backup/restore-plan.ts'
import { sampleDatabase, sampleManifest } from './sample.ts'

const moment = { now: new Date('2026-11-22T05:20:00Z'), random: '0123ab' }
const request: RestoreRequest = { database: 'app', as: undefined, swap: false, dropOld: false }
const facts: TargetFacts = {
  label: 'private cluster /x',
  major: 15,
  databases: [{ name: 'postgres', sessions: 2 }],
  roles: new Set(['app', 'postgres']),
  tablespaces: new Set(['pg_default', 'pg_global']),
  extensions: new Map([['plpgsql', ['1.0']]]),
  lockSlots: 3200,
  prepared: new Set(),
  slots: new Set(),
  freeBytes: 1_000_000_000,
  stored: new Map([
    ['app.dump.zst', 100_000],
    ['restore.sh', 2000],
  ]),
}
const there = { ...facts, databases: [{ name: 'app', sessions: 3 }] }
const plan = (change: Partial<RestoreRequest> = {}, on: TargetFacts = facts, manifest = sampleManifest()) =>
  planRestore(manifest, { ...request, ...change }, on, moment)

test('restore plan: the database is not there: it takes the name, nothing speaks against it', () => {
  expect(plan()).toMatchObject({
    scratch: 'app_restored_0123ab',
    target: 'app',
    before: null,
    findings: [],
    isSingleTransaction: true,
  })
})

test('restore plan: the database is there: it is kept under another name', () => {
  expect(plan({ swap: true }, there)).toMatchObject({
    target: 'app',
    before: 'app_before_20261122t052000z',
    dropsBefore: false,
    sessions: 3,
    findings: [],
  })
  expect(plan({ swap: true, dropOld: true }, there).dropsBefore).toBe(true)
})

test('restore plan: for people', () => {
  expect(showRestorePlan(plan({ swap: true, dropOld: true }, there), moment.now)).toBe(
    `database app of 20261122T020000Z-dump-k3v9qa (job nightly, 3 h 20 min ago)
+ database app_restored_0123ab: 97.7 kB to fetch, 7.6 MB on disk, 954 MB free
~ database app: becomes app_before_20261122t052000z, 3 sessions are ended
~ database app_restored_0123ab: becomes app
- database app_before_20261122t052000z: its data is gone`,
  )
})

test.each([
  ['app', '_restored_0123ab', 'app_restored_0123ab'],
  ['x'.repeat(63), '_restored_0123ab', `${'x'.repeat(47)}_restored_0123ab`],
  ['ü'.repeat(31), '_restored_0123ab', `${'ü'.repeat(23)}_restored_0123ab`],
  ['\u{1f418}'.repeat(15), '_restored_0123ab', `${'\u{1f418}'.repeat(11)}_restored_0123ab`],
])('name %j with an ending: cut to 63 bytes, never inside a character', (name, ending, wanted) => {
  expect(suffixed(name, ending)).toBe(wanted)
  expect(Buffer.byteLength(suffixed(name, ending))).toBeLessThanOrEqual(63)
})

interface Change {
  readonly wanted?: Partial<RestoreRequest>
  readonly on?: Partial<TargetFacts>
}

test.each<[string, Change, string, RegExp]>([
  [
    'the database exists, and nobody said swap',
    { on: { databases: there.databases } },
    'target-not-empty',
    /database "app" exists/,
  ],
  [
    'the other name is taken',
    { wanted: { as: 'app' }, on: { databases: there.databases } },
    'target-not-empty',
    /database "app" exists/,
  ],
  ['a name of 64 bytes', { wanted: { as: 'x'.repeat(64) } }, 'usage', /is no name for a database/],
  ['an empty name', { wanted: { as: '' } }, 'usage', /is no name for a database/],
  ['template0', { wanted: { as: 'template0' } }, 'usage', /is no name for a database/],
  [
    'a file is missing',
    { on: { stored: new Map([['restore.sh', 2000]]) } },
    'backup-damaged',
    /file "app.dump.zst" of .* is not in the store/,
  ],
  [
    'a file is shorter',
    { on: { stored: new Map([...facts.stored, ['app.dump.zst', 99_999]]) } },
    'backup-damaged',
    /has 99999 bytes in the store, 100000 were written/,
  ],
  [
    'a role is missing',
    { on: { roles: new Set(['postgres']) } },
    'plan-impossible',
    /these roles are missing: "app"/,
  ],
  [
    'a tablespace is missing',
    { on: { tablespaces: new Set() } },
    'plan-impossible',
    /these tablespaces are missing: "pg_default"/,
  ],
  [
    'an extension is missing',
    { on: { extensions: new Map() } },
    'plan-impossible',
    /these extensions are not installed: "plpgsql"/,
  ],
  [
    'an older PostgreSQL',
    { on: { major: 14 } },
    'plan-impossible',
    /the backup is of PostgreSQL 15, .* is of 14, which is older/,
  ],
  [
    'less space than the data has',
    { on: { freeBytes: 1_999_999 } },
    'no-space',
    /1.9 MB are free where tablespace "pg_default" is/,
  ],
  [
    'a prepared transaction in its place',
    { wanted: { swap: true }, on: { databases: there.databases, prepared: new Set(['app']) } },
    'plan-impossible',
    /has a prepared transaction/,
  ],
])('restore plan: %s: refused before anything is touched', (_name, { wanted, on }, code, message) => {
  expect(() => assertPossible(plan(wanted, { ...facts, ...on }))).toThrow(
    expect.objectContaining({ code, message: expect.stringMatching(message) }),
  )
})

test('restore plan: several things speak against it: all of them are said', () => {
  expect(() => assertPossible(plan({}, { ...there, roles: new Set(), tablespaces: new Set() }))).toThrow(
    /database "app" exists; these roles are missing: "app"; these tablespaces are missing/,
  )
})

test.each<[string, Partial<RestoreRequest>, Partial<TargetFacts>, RegExp]>([
  ['less space than the database had', {}, { freeBytes: 5_000_000 }, /4.8 MB are free/],
  [
    'another version of an extension',
    {},
    { extensions: new Map([['plpgsql', ['2.0']]]) },
    /extension "plpgsql" was version 1.0, here it becomes one of 2.0/,
  ],
  [
    'logical slots',
    { swap: true },
    { databases: there.databases, slots: new Set(['app']) },
    /logical replication slots of "app" stay/,
  ],
])('restore plan: %s: a warning, and it goes on', (_name, change, on, text) => {
  const made = plan(change, { ...facts, ...on })
  expect(() => assertPossible(made)).not.toThrow()
  expect(made.findings).toEqual([{ level: 'warning', text: expect.stringMatching(text) }])
})

test('restore plan: more objects than the cluster has locks for: not in one transaction', () => {
  const many = sampleManifest({ databases: [sampleDatabase({ objects: { tables: 500, indexes: 10 } })] })
  expect(plan({}, facts, many).isSingleTransaction).toBe(false)
})

test('restore plan: space that cannot be known: no finding', () => {
  expect(plan({}, { ...facts, freeBytes: undefined }).findings).toEqual([])
})
