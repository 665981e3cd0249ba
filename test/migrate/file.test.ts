import { describe, expect, test } from 'vitest'
import type { Fail } from '../../scripts/core/fail.ts'
import { isMigrationFile, parseMigration } from '../../scripts/migrate/file.ts'

const parse = (content: string) => parseMigration('0007_a.sql', content)

test('a file: its sections, options, notes and checksums', () => {
  const migration = parse(
    '\uFEFF-- a comment\r\n-- note: takes long\r\n\r\n-- migrate:up transaction:false\r\nvacuum;\r\n-- migrate:down\r\nselect 1;\r\n',
  )
  expect(migration).toMatchObject({ version: '0007', name: 'a', file: '0007_a.sql', notes: ['takes long'] })
  expect(migration.up).toMatchObject({ text: 'vacuum;\n', line: 5, transaction: false })
  expect(migration.down).toMatchObject({ text: 'select 1;\n', line: 7, transaction: true })
})

test('the checksum: line breaks and a byte order mark do not change it, a letter does', () => {
  const [unix, dos, other] = [
    '-- migrate:up\nselect 1;\nselect 2;\n',
    '\uFEFF-- migrate:up\r\nselect 1;\r\nselect 2;\r\n',
    '-- migrate:up\nselect 1;\nselect 3;\n',
  ].map((content) => parse(content).up.checksum)
  expect(dos).toBe(unix)
  expect(other).not.toBe(unix)
})

test('the way back alone is another one: the checksum of the way there is the same', () => {
  const [a, b] = ['select 1', 'select 2'].map((down) =>
    parse(`-- migrate:up\nselect 0;\n-- migrate:down\n${down};\n`),
  )
  expect(a!.up.checksum).toBe(b!.up.checksum)
  expect(a!.down!.checksum).not.toBe(b!.down!.checksum)
})

test.each([
  ['0001_create.sql', true],
  ['20240101120000_create.sql', true],
  ['7.sql', true],
  ['README.md', false],
  ['schema.sql', false],
  ['.0001_a.sql', false],
])('the name %s: a migration: %s', (file, expected) => {
  expect(isMigrationFile(file)).toBe(expected)
})

describe('what is refused, with its place', () => {
  test.each([
    ['no section', 'select 1;', '0007_a.sql:1: the first section must be "-- migrate:up"'],
    ['the way back first', '-- migrate:down\n-- migrate:up\n', '0007_a.sql:1: the first section'],
    ['SQL before it', '-- x\nselect 1;\n-- migrate:up\n', '0007_a.sql:2: nothing may stand before'],
    [
      'a section twice',
      '-- migrate:up\n-- migrate:up\n',
      '0007_a.sql:2: "-- migrate:up" stands there a second time',
    ],
    [
      'a third section',
      '-- migrate:up\n-- migrate:down\n-- migrate:down\n',
      '0007_a.sql:3: "-- migrate:down" stands there a second time',
    ],
    [
      'an unknown option',
      '-- migrate:up transactions:false\n',
      '0007_a.sql:1: unknown option "transactions:false"',
    ],
    [
      'a quote that is not closed',
      "-- migrate:up\nselect 1;\n  select 'a;\n",
      '0007_a.sql:3:10: a text in quotes is not closed',
    ],
    ['COMMIT', '-- migrate:up\nselect 1; commit;\n', '0007_a.sql:2:11: "commit" ends the transaction'],
    ['BEGIN', '-- migrate:up\nBEGIN;\n', '0007_a.sql:2:1: "begin" ends the transaction'],
    ['COMMIT on the way back', '-- migrate:up\n-- migrate:down\nend;\n', '0007_a.sql:3:1: "end" ends'],
    ['psql', '-- migrate:up\n\\i other.sql\n', String.raw`0007_a.sql:2:1: "\i" is a command of psql`],
    [
      'a dump',
      '-- migrate:up\n\\restrict abc\nselect 1;\n\\unrestrict abc\n',
      String.raw`"\restrict" is a command of psql`,
    ],
    ['rows for COPY', '-- migrate:up\ncopy t from stdin;\n1\n\\.\n', 'COPY FROM STDIN'],
    [
      'an index made concurrently',
      '-- migrate:up\ncreate index concurrently on t (a);\n',
      'cannot run in a transaction',
    ],
    ['VACUUM', '-- migrate:up\nvacuum t;\n', 'cannot run in a transaction'],
    ['a database', '-- migrate:up transaction:false\ncreate database x;\n', 'is not of this database'],
    ['a role', '-- migrate:up\ncreate role x;\n', 'is not of this database'],
  ])('%s', (_title, content, message) => {
    expect(() => parse(content)).toThrow(
      expect.objectContaining({
        code: 'migration-invalid',
        message: expect.stringContaining(message) as string,
      }) as Fail,
    )
  })
})

test.each([
  ['savepoints', 'savepoint a; rollback to a;'],
  [
    'a function that has END in it',
    'create function f() returns int language plpgsql as $$ begin return 1; end $$;',
  ],
  ['a column called commit', 'select 1 as commit;'],
])('what is allowed: %s', (_title, sql) => {
  expect(() => parse(`-- migrate:up\n${sql}\n`)).not.toThrow()
})
