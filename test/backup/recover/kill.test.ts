import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { run } from '../../../scripts/core/exec.ts'
import { killRestoreAt, type RestoreMoment } from '../../support/killed-restore.ts'
import { openCopy, type RecoverSource, recoverSource } from '../../support/recover.ts'

let source: RecoverSource

const ROWS = 20_000

beforeAll(async () => {
  source = await recoverSource()
  await source.server.query('postgres', 'create table t (n int)')
  await source.take()
  await source.server.query('postgres', `insert into t select generate_series(1, ${ROWS})`)
  await source.ship()
  await source.server.query('postgres', 'create table newer_than_the_wal (n int)')
  await source.server.cluster.stop()
})

afterAll(() => source[Symbol.asyncDispose]())

const MOMENTS: readonly RestoreMoment[] = [
  'planned',
  'copying',
  'fetched',
  'recovering',
  'recovered',
  'decided',
  'swapped',
]

const killAt = (moment: RestoreMoment, to?: string) => killRestoreAt(source.file, moment, to)

const folders = async () => (await readdir(source.server.dir)).toSorted()
const journals = () => readdir(join(source.server.dir, 'state/journal'))

/** Whether a data directory is that of before, by a table that is in no stored WAL. */
async function isOld(dir: string): Promise<boolean> {
  const { stdout } = await run([join(source.server.cluster.bindir, 'pg_controldata'), dir], {
    env: { LC_ALL: 'C' },
  })
  return /^Latest checkpoint's TimeLineID:\s+1$/m.test(stdout)
}

test.each(MOMENTS)(
  'restore of a cluster killed with SIGKILL when it has %s: the old one is there, or the whole new one; the next restore ends well',
  async (moment) => {
    const data = source.server.cluster.dataDir
    const before = (await folders()).filter((name) => name.startsWith('data.before-'))
    await killAt(moment)
    expect(await journals()).toHaveLength(1)
    const kept = (await folders()).filter((name) => name.startsWith('data.before-') && !before.includes(name))
    expect(kept).toHaveLength(moment === 'swapped' ? 1 : 0)
    expect(await isOld(data)).toBe(before.length === 0 && moment !== 'swapped')

    const again = await source.restore('cluster', '--yes', '--no-start')
    expect({ code: again.code, stderr: again.stderr }).toMatchObject({ code: 0 })
    expect(again.stderr).toMatch(/^restore: a restore of \S+ to ".*" did not end: /)
    expect(await journals()).toEqual([])
    expect((await folders()).filter((name) => name.includes('.restoring-'))).toEqual([])
    const { stdout } = await run(['ps', '-eo', 'args'])
    expect(stdout.includes(`${data}.restoring-`)).toBe(false)
    await source.server.cluster.start()
    expect(await source.server.query('postgres', 'select count(*)::int as n from t')).toEqual([{ n: ROWS }])
    await source.server.cluster.stop()
    // The first of all is still there, with what no store has.
    const oldest = (await folders()).find((name) => name.startsWith('data.before-'))!
    expect(await isOld(join(source.server.dir, oldest))).toBe(true)
  },
)

test.each(['decided', 'swapped'] as const)(
  'restore beside the cluster killed with SIGKILL when it has %s: what is in its place then can be started',
  async (moment) => {
    const to = join(source.server.dir, `beside-${moment}`)
    await killAt(moment, to)
    const again = await source.restore('cluster', '--to', to)
    expect({ code: again.code, stderr: again.stderr }).toEqual({
      code: 56,
      stderr: expect.stringContaining(`"${to}" is not empty`),
    })
    expect(await journals()).toEqual([])
    await using copy = await openCopy(source.server, to)
    await copy.cluster.start()
    expect(await copy.query('postgres', 'select count(*)::int as n from t')).toEqual([{ n: ROWS }])
  },
)
