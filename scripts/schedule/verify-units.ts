import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { run } from '../core/exec.ts'
import { Fail } from '../core/fail.ts'
import type { UnitFile } from './unit.ts'

/**
 * Asserts that systemd understands units, all of what they say, in a folder of their own.
 * @param version of systemd
 * @throws {Fail} `plan-impossible` with what it says
 */
export async function verifyUnits(units: readonly UnitFile[], version: number): Promise<void> {
  if (units.length === 0) return
  const folder = await mkdtemp(join(tmpdir(), 'howdah-units-'))
  try {
    for (const { name, content } of units) await writeFile(join(folder, name), content)
    const { code, stderr } = await run(
      [
        'systemd-analyze',
        'verify',
        '--man=no',
        // What the units of others say is not ours to judge.
        ...(version >= 250 ? ['--recursive-errors=no'] : []),
        ...units.map(({ name }) => join(folder, name)),
      ],
      { okCodes: [0, 1], env: { LC_ALL: 'C.UTF-8' } },
    )
    // It ends with 0 where a key is unknown or a value is ignored, too: what it complains of counts.
    if (code === 0 && stderr.trim() === '') return
    throw new Fail('plan-impossible', 'systemd does not take the units', {
      hint: stderr.trim().replaceAll(`${folder}/`, ''),
    })
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}
