import { expect } from 'vitest'
import type { Verified } from '../../scripts/backup/verify.ts'
import type { Crafted } from './crafted.ts'

/** Jobs and an archive of a host whose backups are verified. */
export const TOML = `[backup.full]
kind = "base"
store = "local"
pitr = "7d"
[backup.nightly]
kind = "dump"
store = "local"
[archive]
store = "local"
`

/** What `backup verify` finds; its exit code must agree. */
export async function verified(
  host: Pick<Crafted, 'run'>,
  ...args: string[]
): Promise<Verified & { ok: boolean }> {
  const { code, stdout } = await host.run('verify', ...args, '--json')
  const document = JSON.parse(stdout) as { ok: boolean; result: Verified }
  expect(code).toBe(document.ok ? 0 : 1)
  return { ...document.result, ok: document.ok }
}

/** All that was found to be wrong. */
export const problemsOf = ({ backups, wal, problems }: Verified): string[] => [
  ...problems,
  ...[...backups, ...wal].flatMap(({ problems }) => problems),
]
