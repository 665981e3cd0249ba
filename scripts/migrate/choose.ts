import { Fail } from '../core/fail.ts'
import type { Migration } from './file.ts'
import type { VersionLine } from './state.ts'

/** Which migrations are wanted. */
export interface UpChoice {
  /** The last one; default: all. */
  readonly to?: string | undefined
  /** Those that are lower than one that is applied, too. */
  readonly outOfOrder?: boolean
}

/**
 * The migrations that `up` runs, in order. Pure.
 * @throws {Fail} `usage` for an unknown version; `migration-diverged` when the ledger and the folder tell
 *   different stories
 */
export function chooseUp(lines: readonly VersionLine[], { to, outOfOrder }: UpChoice = {}): Migration[] {
  const last = to === undefined ? undefined : lineOf(lines, to)
  const until = last === undefined ? lines : lines.slice(0, lines.indexOf(last) + 1)
  for (const line of lines) assertNoStory(line)
  const late = until.find(({ state }) => state === 'out-of-order')
  if (late && !outOfOrder) {
    throw new Fail(
      'migration-diverged',
      `${late.migration!.file} was never applied, although later ones were: another branch may have been merged`,
      { hint: 'Give it a higher number, or apply it all the same: howdah migrate up --out-of-order' },
    )
  }
  return until
    .filter(({ state }) => state === 'pending' || state === 'out-of-order')
    .map(({ migration }) => migration!)
}

/**
 * The migrations that `down` takes back, the one applied last first. Pure.
 * @param to the version that stays as the last one, or `0`: all of them; default: one step
 * @throws {Fail} `usage`, `migration-diverged`; `plan-impossible` when one has no way back
 */
export function chooseDown(lines: readonly VersionLine[], to: string | undefined): Migration[] {
  const applied = lines
    .filter((line) => line.applied !== undefined)
    .toSorted((a, b) => b.applied!.serial - a.applied!.serial)
  for (const line of applied) assertNoStory(line)
  const stays = to === undefined ? applied[1] : /^0+$/.test(to) ? undefined : lineOf(lines, to)
  if (stays !== undefined && stays.applied === undefined) {
    throw new Fail('usage', `version ${stays.version} is not applied`, { hint: 'Run: howdah migrate status' })
  }
  const going = stays === undefined ? applied : applied.slice(0, applied.indexOf(stays))
  const stuck = going.find(({ migration }) => migration!.down === undefined)
  if (stuck) {
    throw new Fail(
      'plan-impossible',
      `${stuck.migration!.file} has no "-- migrate:down": there is no way back behind it`,
      {
        hint: 'Restore a backup from before it: howdah restore database --help',
      },
    )
  }
  return going.map(({ migration }) => migration!)
}

/**
 * Asserts that migrations can be applied on a major of PostgreSQL. Pure.
 * @throws {Fail} `plan-impossible`
 */
export function assertMajor(migrations: readonly Migration[], major: number): void {
  const beyond = migrations.find(({ requires }) => requires !== undefined && requires > major)
  if (beyond === undefined) return
  throw new Fail(
    'plan-impossible',
    `${beyond.file} requires PostgreSQL ${beyond.requires} or newer, and this is ${major}`,
    {
      hint: `Name a newer major in the host file: [postgres] major = ${beyond.requires}`,
    },
  )
}

function lineOf(lines: readonly VersionLine[], version: string): VersionLine {
  const found = /^\d+$/.test(version)
    ? lines.find((line) => BigInt(line.version) === BigInt(version))
    : undefined
  if (found) return found
  throw new Fail('usage', `there is no version "${version}"`, {
    hint:
      lines.length === 0
        ? 'There is none at all.'
        : `There is: ${lines.map((line) => line.version).join(', ')}`,
  })
}

/** What stands in the way of any change. */
function assertNoStory({ state, version, name, migration, applied }: VersionLine): void {
  switch (state) {
    case 'missing':
      throw new Fail(
        'migration-diverged',
        `version ${version} (${name}) is applied, and there is no file of it`,
        {
          hint: 'Is this an older checkout? Take the newer one, or bring the file back.',
        },
      )
    case 'edited':
      throw new Fail(
        'migration-diverged',
        `${migration!.file} was changed after it had been applied on ${applied!.appliedAt}`,
        {
          hint: `Put it back as it was, and write a new one: howdah migrate new NAME. If nothing that matters differs: howdah migrate repair ${version}`,
        },
      )
    case 'renamed':
      throw new Fail(
        'migration-diverged',
        `version ${version} was applied as "${applied!.name}" and is called "${migration!.name}" now`,
        {
          hint: `If it is the same one: howdah migrate repair ${version}`,
        },
      )
    case 'half-done':
      throw new Fail(
        'migration-diverged',
        `version ${version} (${name}) ended in its midst, outside of any transaction`,
        {
          hint: `See what of it is there, then: howdah migrate repair ${version} --as applied, or --as pending`,
        },
      )
    case 'applied':
    case 'pending':
    case 'out-of-order':
    case 'down-edited':
      return
  }
}
