import { Fail } from '../core/fail.ts'
import type { Host } from '../host/schema.ts'
import { withSession } from '../cluster/session.ts'
import { stopServer } from '../cluster/restricted.ts'
import { reloadUnits, setPort, setStart } from './doors.ts'
import { editedFor, openSpec, writeHostFile } from './place.ts'
import { sharesFiles, type UpgradeState } from './state.ts'

/**
 * Gives the new cluster the place of the old one: its port, its start at boot, its name in the host file; and
 * starts it. What is done already is done again without harm.
 * @returns the state in the phase `after`
 */
export async function openDoors(host: Host, state: UpgradeState): Promise<UpgradeState> {
  const old = await openSpec(host, state.old)
  await stopServer(old)
  const isGone = sharesFiles({ ...state, phase: 'open' })
  const why = isGone
    ? 'Its files belong to the new cluster: started, it would destroy both.'
    : 'It is as it was when the upgrade began: howdah upgrade rollback goes back to it.'
  await setStart(state.old, isGone ? 'disabled' : 'manual', why)
  await setStart(state.new, 'auto', 'Made by howdah upgrade.')
  await writeHostFile(state.file, await editedFor(state.file, state.new, state.old))
  const target = await openSpec(host, state.new)
  if (!(await target.isRunning())) await target.start()
  const serving = await openSpec(host, state.new)
  const position = await withSession(
    { cluster: serving, database: 'postgres', setup: 'set search_path to pg_catalog' },
    async (client) => {
      const { rows } = await client.query<{ position: string | null }>(
        'select pg_current_wal_lsn()::text as position',
      )
      return rows[0]!.position
    },
  )
  const opened = new Date().toISOString()
  // While the new one serves: what nobody waits for.
  await setPort(state.old, state.spare)
  await reloadUnits(state.new)
  if (position === null) throw new Fail('server-failed', `${serving.label} says no position in its WAL`)
  return { ...state, phase: 'after', opened, openedAt: position }
}
