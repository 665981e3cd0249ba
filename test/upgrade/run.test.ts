import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { takeManifest } from '../../scripts/upgrade/manifest.ts'
import { compareManifests } from '../../scripts/upgrade/compare.ts'
import { makeRich } from '../support/rich.ts'
import { runScript } from '../support/script.ts'
import { upgradeHost } from '../support/upgrade.ts'

describe.each([
  [13, 15],
  [15, 17],
  [17, 18],
] as const)('%i to %i', (from, to) => {
  // Swapping came with 18.
  test.each(['copy', 'link', 'dump', ...(to >= 18 ? ['swap'] : [])])(
    'upgrade run --method %s: every object, role, setting and row is the same, and logins work',
    async (method) => {
      await using host = await upgradeHost([from, to], '[settings]\nwork_mem = "5MB"\n', {
        settings: { log_min_duration_statement: '1234' },
      })
      await makeRich(host.server, join(host.server.dir, 'space'))
      const before = await takeManifest(host.server.cluster, { verify: 'content' })
      const args = [
        'run',
        '--to',
        String(to),
        '--bindir',
        host.bindir,
        '--method',
        method,
        '--json',
        '-c',
        host.file,
      ]
      const done = await runScript(['upgrade', ...args])
      expect(done.stderr).not.toMatch(/error/)
      const { result } = JSON.parse(done.stdout)
      expect(result.finished.problems).toEqual([])
      const cluster = await host.cluster()
      expect(cluster.major).toBe(to)
      expect(compareManifests(before, await takeManifest(cluster, { verify: 'content' }))).toEqual([])
      const [row] = await host.query<{ work: string; log: string }>(
        'postgres',
        `select current_setting('work_mem') as work, current_setting('log_min_duration_statement') as log`,
      )
      expect(row).toEqual({ work: '5MB', log: '1234ms' })
      expect(await readFile(host.file, 'utf8')).toContain(`major = ${to}`)
    },
  )
})
