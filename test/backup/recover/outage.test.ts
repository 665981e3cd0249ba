import { writeFileSync } from 'node:fs'
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { RecoverRequest } from '../../../scripts/backup/recover/plan.ts'
import { type RecoverOptions, restoreCluster } from '../../../scripts/backup/recover/run.ts'
import { hostSources, type Sources } from '../../../scripts/backup/recover/sources.ts'
import { loadHost } from '../../../scripts/cluster/open.ts'
import { run } from '../../../scripts/core/exec.ts'
import { Fail } from '../../../scripts/core/fail.ts'
import { dirStore } from '../../../scripts/store/dir.ts'
import type { Store } from '../../../scripts/store/store.ts'
import { openCopy, ownFolder, type RecoverSource, recoverSource } from '../../support/recover.ts'

let source: RecoverSource

const ROWS = 100_000

beforeAll(async () => {
  source = await recoverSource()
  await source.server.query('postgres', 'create table t (n int)')
  await source.take()
  await source.server.query('postgres', `insert into t select generate_series(1, ${ROWS})`)
  await source.ship()
})

afterAll(() => source[Symbol.asyncDispose]())

/** A store in front of a folder, of which something can be taken away. */
interface Line {
  readonly store: Store
  /** Whether what is asked for does not come through. */
  isCut: (key: string) => boolean
}

function lineTo(folder: string): Line {
  const behind = dirStore(folder)
  const cut = (key: string) => {
    if (line.isCut(key)) throw new Fail('store-unreachable', `the line to the store is cut at "${key}"`)
  }
  const line: Line = {
    isCut: () => false,
    store: {
      ...behind,
      async *list(prefix) {
        cut(prefix)
        yield* behind.list(prefix)
      },
      async get(key, range) {
        cut(key)
        return behind.get(key, range)
      },
    },
  }
  return line
}

async function restore(
  dir: string,
  line: Line,
  options: RecoverOptions = {},
  to: Partial<RecoverRequest> = {},
): Promise<unknown> {
  const { host } = await loadHost(source.file)
  const own = hostSources(host)
  const sources: Sources = {
    readCatalog: () => own.readCatalog(),
    walOf: (catalog, system) => ({ ...own.walOf(catalog, system), store: line.store }),
  }
  const request: RecoverRequest = {
    label: 'latest',
    target: { kind: 'latest' },
    to: dir,
    port: 20_500,
    tablespaces: new Map(),
    starts: true,
    ...to,
  }
  return restoreCluster(host, sources, request, { patience: 0.5, ...options })
}

const failure = async (promise: Promise<unknown>): Promise<Fail> => {
  const error: unknown = await promise.then(
    () => undefined,
    (thrown: unknown) => thrown,
  )
  expect(error).toBeInstanceOf(Fail)
  return error as Fail
}

const leftovers = async () =>
  (await readdir(source.server.dir)).filter(
    (name) => name.startsWith('outage') || name.includes('.restoring-'),
  )

/** Servers that have one of our folders as their data directory. */
const servers = async () => {
  const { stdout } = await run(['ps', '-eo', 'args'])
  return stdout.split('\n').filter((line) => line.includes(source.server.dir) && line.includes('.restoring-'))
}

describe('an outage of the store during a recovery', () => {
  test('from some segment on: it ends in an error, never in a promotion with fewer rows', async () => {
    const { segments } = await source.wal.list()
    expect(segments.length).toBeGreaterThan(4)
    for (const index of [1, Math.floor(segments.length / 2), segments.length - 1]) {
      const line = lineTo(source.store)
      const error = await failure(
        restore(join(source.server.dir, 'outage'), line, {
          onPhase(phase) {
            if (phase === 'planned')
              line.isCut = (key) =>
                /\/[0-9A-F]{24}/.test(key) && key.slice(-60).match(/[0-9A-F]{24}/)![0] >= segments[index]!
          },
        }),
      )
      expect(error.code).toBe('store-unreachable')
      expect(await leftovers()).toEqual([])
      expect(await servers()).toEqual([])
    }
  })

  test('of all of it: the same, and nothing is left', async () => {
    const line = lineTo(source.store)
    const error = await failure(
      restore(join(source.server.dir, 'outage'), line, {
        onPhase: (phase) => {
          if (phase === 'fetched') line.isCut = () => true
        },
      }),
    )
    expect(error.code).toBe('store-unreachable')
    expect(await leftovers()).toEqual([])
    expect(await servers()).toEqual([])
  })

  test('a store that lists nothing any more, as a folder that is not mounted does: that is no proof of absence', async () => {
    const line = lineTo(source.store)
    let isEmpty = false
    const { store } = line
    const emptied: Line = {
      ...line,
      store: {
        ...store,
        async *list(prefix) {
          if (!isEmpty) yield* store.list(prefix)
        },
      },
    }
    const error = await failure(
      restore(join(source.server.dir, 'outage'), emptied, {
        onPhase: (phase) => {
          if (phase === 'planned') isEmpty = true
        },
      }),
    )
    expect(error.code).toBe('wal-missing')
    expect(await leftovers()).toEqual([])
  })

  test('that is short: it is waited for, and every row is there', async () => {
    const line = lineTo(source.store)
    let refusals = 6
    const dir = join(source.server.dir, 'outage-short')
    await restore(dir, line, {
      patience: 30,
      onPhase: (phase) => {
        if (phase === 'planned') line.isCut = () => refusals-- > 0
      },
    })
    await using copy = await openCopy(source.server, dir)
    expect(await copy.query('postgres', 'select count(*)::int as n from t')).toEqual([{ n: ROWS }])
  })
})

describe('a disk that is too small', () => {
  test('for what is known: refused before anything is fetched', async () => {
    const disk = await mounted('12m')
    try {
      const error = await failure(restore(join(disk, 'data'), lineTo(source.store)))
      expect(error.code).toBe('no-space')
      expect(await readdir(disk)).toEqual([])
    } finally {
      await run(['umount', disk])
    }
  })

  test('because somebody else fills it meanwhile: an error, and everything that was fetched is gone', async () => {
    const disk = await mounted('120m')
    try {
      const fetched = restore(join(disk, 'data'), lineTo(source.store), {
        onPhase(phase) {
          if (phase === 'planned') writeFileSync(join(disk, 'filler'), Buffer.alloc(105 * 1024 * 1024))
        },
      })
      const error = await failure(fetched)
      expect(error.code).toBe('no-space')
      expect(await readdir(disk)).toEqual(['filler'])
    } finally {
      await run(['umount', disk])
    }
  })
})

async function mounted(size: string): Promise<string> {
  const disk = await ownFolder(source.server, `disk-${size}`)
  await run(['mount', '-t', 'tmpfs', '-o', `size=${size},mode=0755`, 'tmpfs', disk])
  return disk
}
