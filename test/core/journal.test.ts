import { mkdtemp, readdir, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import {
  journalPath,
  listJournals,
  readJournal,
  removeJournal,
  writeJournal,
} from '../../scripts/core/journal.ts'

let dir: string
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'howdah-journal-'))
})
afterAll(() => rm(dir, { recursive: true }))

test('journal: written, read, removed: says what it said, to its owner only', async () => {
  const path = journalPath(join(dir, 'state'), 'swap')
  await writeJournal(path, { phase: 'rename', names: ['a"b', 'Ünï\n'] }, { mode: 0o750 })
  expect(await readJournal(path)).toEqual({ format: 1, phase: 'rename', names: ['a"b', 'Ünï\n'] })
  expect((await stat(path)).mode & 0o777).toBe(0o600)
  expect((await stat(dirname(path))).mode & 0o777).toBe(0o750)
  await writeJournal(path, { phase: 'done' }, { mode: 0o750 })
  expect(await readJournal(path)).toEqual({ format: 1, phase: 'done' })
  await removeJournal(path)
  expect(await readJournal(path)).toBeUndefined()
})

test('journal: removed twice, or where no folder is: is no error', async () => {
  expect(await removeJournal(journalPath(join(dir, 'state'), 'swap'))).toBeUndefined()
  expect(await removeJournal(journalPath(join(dir, 'nowhere'), 'swap'))).toBeUndefined()
})

test('journalPath: a name with a slash or dots: stays in its folder', () => {
  expect(dirname(journalPath('/s', '../../etc/x'))).toBe('/s/journal')
  expect(journalPath('/s', 'a/b')).not.toBe(journalPath('/s', 'a_b'))
})

test.each([
  ['no JSON', '{"format": 1, "pha', 'is damaged'],
  ['nothing', '', 'is damaged'],
  ['null', 'null', 'is damaged'],
  ['a list', '[1]', 'is damaged'],
  ['a text', '"x"', 'is damaged'],
  ['a newer format', '{"format": 2}', 'has format 2, this version knows 1'],
  ['no format', '{}', 'has no format, this version knows 1'],
])('readJournal: %s: is refused, and what to do is said', async (_, text, message) => {
  const path = join(dir, 'bad.json')
  await writeFile(path, text)
  await expect(readJournal(path)).rejects.toMatchObject({
    code: 'file-unreadable',
    message: `the journal "${path}" ${message}`,
    hint: expect.stringMatching(/\S/),
  })
})

test('listJournals: only finished files with our ending, in order; no folder: none', async () => {
  const folder = join(dir, 'list')
  for (const name of ['b', 'a', '10', '9'])
    await writeJournal(join(folder, `${name}.json`), {}, { mode: 0o700 })
  await writeFile(join(folder, '.0a1b.howdah-tmp'), '{}')
  await writeFile(join(folder, '.hidden.json'), '{}')
  await writeFile(join(folder, 'making-15-main'), '')
  expect(await listJournals(folder)).toEqual(['10', '9', 'a', 'b'])
  expect(await listJournals(join(dir, 'nowhere'))).toEqual([])
  expect(await readdir(folder)).toHaveLength(7)
})
