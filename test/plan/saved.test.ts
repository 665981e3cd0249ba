import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Change, Hazard } from '../../scripts/plan/change.ts'
import type { Planned } from '../../scripts/plan/planner.ts'
import {
  assertFresh,
  hashHost,
  hazardsOf,
  type PlanOrigin,
  readPlan,
  type SavedPlan,
  savePlan,
} from '../../scripts/plan/saved.ts'

let dir: string
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'howdah-saved-'))
})
afterAll(() => rm(dir, { recursive: true }))

const change = (name: string, ...hazards: readonly Hazard[]): Change => ({
  kind: 'role',
  name,
  action: 'create',
  line: 'login',
  hazards,
  steps: [{ run: 'sql', database: 'postgres', text: `create role ${name}`, transaction: true }],
})

const PLANNED: Planned = {
  changes: [change('a', 'restarts-server'), change('b')],
  findings: [],
  digest: 'd1',
}
const ORIGIN: PlanOrigin = { howdah: '0.1.0', hostHash: 'h1', systemIdentifier: '7', major: 15, only: null }

async function saved(planned = PLANNED, origin = ORIGIN): Promise<SavedPlan> {
  const path = join(dir, 'plan.json')
  await savePlan(path, origin, planned)
  return readPlan(path, origin.howdah)
}

test('a plan that is saved and read: says the same, with its hazards', async () => {
  expect(await saved()).toEqual({
    format: 1,
    ...ORIGIN,
    hazards: ['restarts-server'],
    digest: 'd1',
    changes: PLANNED.changes,
  })
})

test('the file of a plan: is for its owner only, one that was there before too', async () => {
  const path = join(dir, 'open.json')
  await writeFile(path, 'x', { mode: 0o666 })
  await savePlan(path, ORIGIN, PLANNED)
  const { mode, uid } = await stat(path)
  expect({ mode: mode & 0o777, uid }).toEqual({ mode: 0o600, uid: process.getuid!() })
  expect(await readFile(path, 'utf8')).toMatch(/\}\n$/)
})

test('no folder to save it in: is said', async () => {
  await expect(savePlan(join(dir, 'none/plan.json'), ORIGIN, PLANNED)).rejects.toMatchObject({
    code: 'file-unreadable',
  })
})

describe('readPlan', () => {
  test.each([
    ['no JSON', '{"format": 1', 'file-unreadable', 'is no plan'],
    ['nothing', '', 'file-unreadable', 'is no plan'],
    ['null', 'null', 'file-unreadable', 'is no plan'],
    ['another document', '{"format": 1, "script": "provision"}', 'file-unreadable', 'is no plan'],
    ['a list', '[]', 'file-unreadable', 'is no plan'],
    [
      'an older version',
      JSON.stringify({ format: 1, howdah: '0.0.9', changes: [] }),
      'plan-stale',
      'was made by Howdah 0.0.9, this is 0.1.0',
    ],
    [
      'a newer format',
      JSON.stringify({ format: 2, howdah: '0.1.0', changes: [] }),
      'plan-stale',
      'has format 2, this version knows 1',
    ],
  ])('%s: is refused, with how to make it anew', async (_, text, code, message) => {
    const path = join(dir, 'bad.json')
    await writeFile(path, text)
    await expect(readPlan(path, '0.1.0')).rejects.toMatchObject({
      code,
      message: `"${path}" ${message}`,
      hint: 'Make it anew: howdah provision plan --out FILE',
    })
  })

  test('no file: is said', async () => {
    await expect(readPlan(join(dir, 'none.json'), '0.1.0')).rejects.toMatchObject({ code: 'file-unreadable' })
  })
})

describe('assertFresh', () => {
  test('nothing moved: the plan may run', async () => {
    const plan = await saved()
    expect(() => assertFresh(plan, ORIGIN, PLANNED)).not.toThrow()
  })

  test.each<[string, Partial<PlanOrigin>, Partial<Planned>, string]>([
    ['the host file', { hostHash: 'h2' }, {}, 'the host file, or an override, has changed since it was made'],
    ['the cluster', { systemIdentifier: '8' }, {}, 'it was made for another cluster'],
    ['the cluster was made meanwhile', { systemIdentifier: '' }, {}, 'it was made for another cluster'],
    ['the major', { major: 16 }, {}, 'it was made for another cluster'],
    ['--only', { only: ['role'] }, {}, 'it was made with another --only'],
    ['what was seen', {}, { digest: 'd2' }, 'the host has moved on since it was made'],
    [
      'one change more',
      {},
      { changes: [...PLANNED.changes, change('c')] },
      'the host has moved on since it was made',
    ],
    [
      'the order of changes',
      {},
      { changes: PLANNED.changes.toReversed() },
      'the host has moved on since it was made',
    ],
    [
      'a step',
      {},
      { changes: [change('a', 'restarts-server'), { ...change('b'), steps: [] }] },
      'the host has moved on since it was made',
    ],
  ])('%s moved: is refused, and it is said what', async (_, origin, planned, message) => {
    const plan = await saved()
    const check = () => assertFresh(plan, { ...ORIGIN, ...origin }, { ...PLANNED, ...planned })
    expect(check).toThrow(`the plan was not run: ${message}`)
  })
})

test('hashHost: moves with the text and with overrides, and cannot be fooled by moving text between them', () => {
  const hashes = [
    hashHost('a', []),
    hashHost('b', []),
    hashHost('a', ['x']),
    hashHost('a', ['x', 'y']),
    hashHost('a', ['x","y']),
    hashHost('ax', []),
  ]
  expect(new Set(hashes).size).toBe(hashes.length)
  expect(hashHost('a', ['x'])).toBe(hashHost('a', ['x']))
})

test('hazardsOf: each once, in order of the alphabet', () => {
  expect(hazardsOf([change('a', 'restarts-server', 'deletes-data'), change('b', 'deletes-data')])).toEqual([
    'deletes-data',
    'restarts-server',
  ])
  expect(hazardsOf([])).toEqual([])
})
