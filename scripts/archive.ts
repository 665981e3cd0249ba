#!/usr/bin/env -S sh -c 'exec "${0%/*}/howdah" "$0" "$@"'
/**
 * Stores the WAL of a server as it is written, and says what a disaster now would cost.
 *
 *     howdah archive status -c conf/demo.toml
 *
 * `run` is a service: it ends by SIGTERM, with 0. Exit codes: 0 done, 1 the loss is above
 * `archive.max_loss` or the archive is not well, 2 usage, 10 host file, 20 locked, 30-33 server,
 * 50-54 store, 58 WAL differs.
 */
import { planArchive } from './backup/archive/plan.ts'
import { runArchive } from './backup/archive/service.ts'
import { showPlan, showStatus } from './backup/archive/show.ts'
import { archiveStatus } from './backup/archive/status.ts'
import { loadHost } from './cluster/open.ts'
import { type Call, main, type Outcome } from './core/cli.ts'
import type { Code } from './core/fail.ts'

const FAILS: readonly Code[] = [
  'host-file',
  'file-unreadable',
  'not-permitted',
  'server-unreachable',
  'server-denied',
  'server-failed',
  'cluster-mismatch',
  'store-denied',
  'store-unreachable',
  'backup-damaged',
]

await main({
  name: 'archive',
  summary: 'store the WAL as it is written',
  example: 'howdah archive status -c conf/demo.toml',
  verbs: [
    {
      name: 'run',
      summary: 'receive WAL and store it, until SIGTERM: the service',
      options: [
        { flags: '--take-over <machine>', help: 'go on with the archive of another machine, which is gone' },
      ],
      common: ['file', 'plan'],
      fails: [...FAILS, 'lock-held', 'wal-differs'],
      isService: true,
      run: runService,
    },
    {
      name: 'status',
      summary: 'say what a disaster now would cost, as the store has it',
      common: ['file'],
      fails: FAILS,
      run: status,
    },
  ],
})

async function runService(call: Call): Promise<Outcome> {
  const loaded = await loadHost(call.file, call.overrides)
  if (call.planOnly) {
    const plan = await planArchive(loaded.host)
    return { text: showPlan(plan), result: plan }
  }
  const takeOver = call.options['takeOver']
  const position = await runArchive({ loaded, ...(typeof takeOver === 'string' && { takeOver }) })
  return { text: '', result: { position: position ?? null } }
}

async function status(call: Call): Promise<Outcome> {
  const { host } = await loadHost(call.file, call.overrides)
  const found = await archiveStatus(host)
  return { text: showStatus(found), result: found, ok: found.problems.length === 0 }
}
