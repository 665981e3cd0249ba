import { mkdtemp, readdir, readFile, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { Secret } from '../../scripts/core/secret.ts'
import { createSecretFile, makeSecret, writeSecretFile } from '../../scripts/core/secret-file.ts'

let dir: string
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'howdah-test-'))
})
afterAll(() => rm(dir, { recursive: true, force: true }))

describe('makeSecret', () => {
  test('1000 secrets: differ, use every character, and no other', () => {
    const texts = Array.from({ length: 1000 }, () => makeSecret().reveal())
    expect(new Set(texts).size).toBe(1000)
    expect(new Set(texts.join('')).size).toBe(62)
    expect(texts.every((text) => /^[A-Za-z0-9]{32}$/.test(text))).toBe(true)
  })

  test('printed in any way: does not show itself', () => {
    const secret = makeSecret(40)
    expect([secret.toString(), JSON.stringify({ secret })]).toEqual(['[secret]', '{"secret":"[secret]"}'])
  })
})

describe('createSecretFile', () => {
  test('a new file: whole, with its access; a second time: kept', async () => {
    const path = join(dir, 'new')
    expect(await createSecretFile(path, new Secret('one'), { mode: 0o400 })).toBe(true)
    expect(await createSecretFile(path, new Secret('two'), { mode: 0o644 })).toBe(false)
    expect([await readFile(path, 'utf8'), (await stat(path)).mode & 0o777]).toEqual(['one\n', 0o400])
    expect(await readdir(dir)).toEqual(['new'])
  })

  test('twenty at once: exactly one wins', async () => {
    const path = join(dir, 'race')
    const made = await Promise.all(
      Array.from({ length: 20 }, (_, index) =>
        createSecretFile(path, new Secret(`s${index}`), { mode: 0o400 }),
      ),
    )
    expect(made.filter(Boolean)).toEqual([true])
    expect(await readFile(path, 'utf8')).toBe(`s${made.indexOf(true)}\n`)
  })

  test('a folder that is not there: an error that names the file', async () => {
    const path = join(dir, 'no/folder')
    await expect(createSecretFile(path, makeSecret(), { mode: 0o400 })).rejects.toMatchObject({
      code: 'file-unreadable',
      message: `cannot write "${path}": there is no folder "${join(dir, 'no')}"`,
    })
  })
})

test('writeSecretFile: something is there: it is not written over', async () => {
  const path = join(dir, 'there')
  await writeSecretFile(path, new Secret('one'), { mode: 0o400 })
  await expect(writeSecretFile(path, new Secret('two'), { mode: 0o400 })).rejects.toMatchObject({
    code: 'file-unreadable',
  })
  expect(await readFile(path, 'utf8')).toBe('one\n')
})
