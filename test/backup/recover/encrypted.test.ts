import { chown, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Manifest } from '../../../scripts/backup/manifest.ts'
import { run } from '../../../scripts/core/exec.ts'
import { type RecoverSource, recoverSource } from '../../support/recover.ts'

let source: RecoverSource
let right: string
let wrong: string
let manifest: Manifest

beforeAll(async () => {
  const [own, other] = await Promise.all([run(['age-keygen']), run(['age-keygen'])])
  const recipient = /age1[0-9a-z]+/.exec(own.stdout)![0]
  source = await recoverSource(`[encryption]\nrecipients = ["${recipient}"]\n`, [recipient])
  right = join(source.server.dir, 'right.key')
  wrong = join(source.server.dir, 'wrong.key')
  await writeFile(right, own.stdout, { mode: 0o600 })
  await writeFile(wrong, other.stdout, { mode: 0o600 })
  await chown(right, 0, 0).catch(() => {}) // the server's user need not read it
  await source.server.query('postgres', 'create table t as select generate_series(1, 500) as n')
  manifest = await source.take()
  await source.server.query('postgres', 'insert into t select generate_series(501, 900)')
  await source.ship()
})

afterAll(() => source[Symbol.asyncDispose]())

const target = () => join(source.server.dir, 'locked')

describe('restore of an encrypted cluster', () => {
  test('with the right key: base and WAL are read', async () => {
    await using copy = await source.copy('--identity', right)
    expect(await copy.query('postgres', 'select count(*)::int as n from t')).toEqual([{ n: 900 }])
  })

  test('without a key: refused before anything is fetched', async () => {
    const { code, stderr } = await source.restore('cluster', '--to', target())
    expect({ code, stderr }).toEqual({ code: 62, stderr: expect.stringContaining('--identity FILE') })
  })

  test('with another key, while the data is away: refused by the plan and by the run before they look for it', async () => {
    const { label } = manifest
    const base = join(source.store, 'test/main/backup', label, manifest.physical!.file)
    const to = ['cluster', '--to', target(), '--identity', wrong, '--immediate']
    await rename(base, `${base}.away`)
    try {
      for (const args of [[...to, '--plan'], to]) {
        const { code, stderr } = await source.restore(...args)
        expect({ code, stderr }).toEqual({ code: 62, stderr: expect.stringContaining(label) })
      }
    } finally {
      await rename(`${base}.away`, base)
    }
    const plan = ['cluster', '--to', target(), '--identity', right, '--immediate', '--plan']
    expect(await source.restore(...plan)).toMatchObject({ code: 0 })
  })

  test('with another key: refused', async () => {
    const { code } = await source.restore('cluster', '--to', target(), '--identity', wrong)
    expect(code).toBe(62)
    const alone = await source.restore('cluster', '--to', target(), '--identity', wrong, '--immediate')
    expect(alone.code).toBe(62)
  })
})
