import { expect, test } from 'vitest'
import { connectionString } from '../../scripts/cluster/program.ts'

test.each([
  ['app', `dbname='app'`],
  ['a=b', `dbname='a=b'`],
  ['host=evil.example', `dbname='host=evil.example'`],
  ['postgres://evil.example/x', `dbname='postgres://evil.example/x'`],
  [`it's`, String.raw`dbname='it\'s'`],
  ['a\\b', String.raw`dbname='a\\b'`],
  ['with space', `dbname='with space'`],
])('name of a database for libpq: %j: never taken for a connection string', (name, wanted) => {
  expect(connectionString(name)).toBe(wanted)
})
