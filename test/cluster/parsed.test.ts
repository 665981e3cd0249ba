import { mkdtemp, readdir, readFile, rm, stat, utimes, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { loadHost } from '../../scripts/cluster/open.ts'
import { parseHost } from '../../scripts/host/host.ts'
import { keepParsed, parsedBefore } from '../../scripts/cluster/parsed.ts'
import { referenceToml } from '../../scripts/host/reference.ts'

let dir: string
const before = process.env['NODE_COMPILE_CACHE']

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'howdah-parsed-'))
  process.env['NODE_COMPILE_CACHE'] = dir
})
afterEach(async () => {
  if (before === undefined) delete process.env['NODE_COMPILE_CACHE']
  else process.env['NODE_COMPILE_CACHE'] = before
  await rm(dir, { recursive: true })
})

const kept = () => readdir(join(dir, 'host-files'))

test('host file that was checked before: is the same host, with nothing lost on the way', async () => {
  const path = join(dir, 'host.toml')
  await writeFile(path, referenceToml())
  const first = await loadHost(path)
  expect(await kept()).toHaveLength(1)
  const second = await loadHost(path)
  expect(second).toEqual(first)
  expect(second.host).toEqual(parseHost(referenceToml()))
  expect(second.host).not.toBe(first.host)
})

test('one that differs in a letter, or in what the command line puts over it: is checked anew', async () => {
  const text = referenceToml()
  await keepParsed(text, [], parseHost(text))
  expect(await parsedBefore(text, [])).toBeDefined()
  expect(await parsedBefore(`${text} `, [])).toBeUndefined()
  expect(await parsedBefore(text, ['host.name=b'])).toBeUndefined()
})

test('one with a mistake: is never kept', async () => {
  const path = join(dir, 'host.toml')
  await writeFile(path, 'format = 1\n[host]\nnmae = "db1"\n')
  for (let time = 0; time < 2; time++)
    await expect(loadHost(path)).rejects.toMatchObject({ code: 'host-file' })
  await expect(kept()).rejects.toMatchObject({ code: 'ENOENT' })
})

test('what is kept: only its user reads it; what is damaged is checked anew, and mended', async () => {
  const path = join(dir, 'host.toml')
  await writeFile(path, referenceToml())
  await loadHost(path)
  const [name] = await kept()
  const file = join(dir, 'host-files', name!)
  expect((await stat(file)).mode & 0o777).toBe(0o600)
  await writeFile(file, (await readFile(file, 'utf8')).slice(0, 100))
  expect((await loadHost(path)).host.host.name).toBe(parseHost(referenceToml()).host.name)
  expect(JSON.parse(await readFile(file, 'utf8'))).toHaveProperty('host')
})

test('a folder that is no folder, or none at all: the host file is checked each time', async () => {
  const path = join(dir, 'host.toml')
  await writeFile(path, referenceToml())
  await writeFile(join(dir, 'host-files'), '')
  expect((await loadHost(path)).host).toEqual(parseHost(referenceToml()))
  delete process.env['NODE_COMPILE_CACHE']
  expect((await loadHost(path)).host).toEqual(parseHost(referenceToml()))
})

test('many of them: the oldest are forgotten', async () => {
  const host = parseHost(referenceToml())
  for (let number = 0; number < 64; number++) await keepParsed(String(number), [], host)
  const past = new Date(Date.now() - 3_600_000)
  for (const name of await kept()) await utimes(join(dir, 'host-files', name), past, past)
  await keepParsed('the newest', [], host)
  expect((await kept()).length).toBe(32)
  expect(await parsedBefore('the newest', [])).toBeDefined()
})
