import { expect, test } from 'vitest'
import { editHostFile } from '../../scripts/host/edit.ts'

const FILE = `# A host.
format = 1
[postgres] # of 2021
kind = "private"
  major  =  15   # as Debian 12 has it
data_dir = '/srv/pg "old" = [data]'
port = 5433

[roles."a.b"]
major = "15"
`

test.each([
  ['a number keeps its comment', { major: 17 }, '  major  =  17   # as Debian 12 has it'],
  ['a text in single quotes', { data_dir: '/srv/p\\g "new"' }, String.raw`data_dir = "/srv/p\\g \"new\""`],
  ['a key that is not there yet', { bindir: '/opt/pg' }, '[postgres] # of 2021\nbindir = "/opt/pg"\nkind'],
])('editHostFile: %s', (_what, values, line) => {
  const edited = editHostFile(FILE, 'postgres', values)
  expect(edited).toContain(line)
  expect(edited).toContain('[roles."a.b"]\nmajor = "15"\n')
})

test('editHostFile: there and back is the same text, a key that came goes', () => {
  const there = editHostFile(FILE, 'postgres', { major: 17, bindir: '/opt/pg' })
  expect(editHostFile(there, 'postgres', { major: 15, bindir: undefined })).toBe(FILE)
})

test.each([
  ['an inline table', 'format = 1\npostgres = { major = 15 }\n'],
  ['a text over several lines', 'format = 1\n[postgres]\nmajor = """\n15"""\n'],
])('editHostFile: %s is refused', (_what, text) => {
  expect(() => editHostFile(text, 'postgres', { major: 17 })).toThrow(/cannot be edited/)
})

test('editHostFile: dotted keys are edited where they stand, none is added', () => {
  const text = 'postgres.major = 15\nformat = 1\n'
  expect(editHostFile(text, 'postgres', { major: 17 })).toBe('postgres.major = 17\nformat = 1\n')
  expect(() => editHostFile(text, 'postgres', { bindir: '/x' })).toThrow(/cannot be edited/)
})
