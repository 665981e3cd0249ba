import { expect, test } from 'vitest'
import { parseHost } from '../../scripts/host/host.ts'
import type { Change } from '../../scripts/plan/change.ts'
import { modesOf, showModes } from '../../scripts/plan/mode.ts'

const host = parseHost(`format = 1
[host]
name = "x"
[postgres]
major = 15
[databases.app]
[databases."a b"]
`)
const change = (kind: string, name: string, action: Change['action'] = 'create') =>
  ({ kind, name, action, line: '', hazards: [], steps: [] }) as Change

test.each<[string, Change[], string]>([
  ['nothing to do: both were there', [], 'app was there, "a b" was there'],
  [
    'one is made',
    [change('database', '"a b"'), change('migration', 'a b: 1.sql')],
    'app was there, "a b" is new',
  ],
  ['one is altered', [change('database', 'app', 'alter')], 'app was there, "a b" was there'],
  [
    'one has versions that are pending',
    [change('migration', 'a b: 0001_x.sql'), change('migration', 'a b: 0002_y.sql')],
    'app was there, "a b" was there with an older schema',
  ],
  ['a role of the same name is made', [change('role', 'app')], 'app was there, "a b" was there'],
])('%s', (_title, changes, text) => {
  expect(showModes(modesOf(host, { changes }))).toBe(text)
})

test('versions are counted', () => {
  expect(
    modesOf(host, { changes: [change('migration', 'app: 1.sql'), change('migration', 'app: 2.sql')] }),
  ).toEqual([
    { database: 'app', mode: 'older', migrations: 2 },
    { database: 'a b', mode: 'existing', migrations: 0 },
  ])
})
