import { run } from '../core/exec.ts'
import { Fail } from '../core/fail.ts'
import { readTextIfAny } from '../core/file.ts'

/** What apt would do with the packages of PostgreSQL if the operating system were upgraded now. */
export interface AptForecast {
  /** Code name of the release that runs: `bookworm`. */
  readonly release: string
  /** Other releases of the same system that apt's sources name; nothing is foretold without one. */
  readonly next: readonly string[]
  /** Whether sources of the release that runs are still among them. */
  readonly isMixed: boolean
  /** Names of packages. */
  readonly removed: readonly string[]
  readonly upgraded: readonly string[]
  readonly installed: readonly string[]
  /** Those that stay as they are, and those of them that apt would rather not have kept. */
  readonly kept: readonly string[]
  readonly heldBack: readonly string[]
  /** Those that `apt autoremove` would take afterwards. */
  readonly unneeded: readonly string[]
  /** What apt says when it finds no way. */
  readonly problem: string | undefined
}

/** Where apt looks; default: as the system has it. */
export interface AptOptions {
  /** Variables such as APT_CONFIG. */
  readonly env?: Readonly<Record<string, string>>
}

/**
 * Asks apt what a full-upgrade would do, by its own simulation; nothing is changed, and no list is fetched.
 * @returns undefined where there is no apt
 * @throws {Fail} `command-failed`
 */
export async function aptForecast(options: AptOptions = {}): Promise<AptForecast | undefined> {
  const env = { ...options.env, LC_ALL: 'C' }
  const facts = osFacts((await readTextIfAny('/etc/os-release')) ?? '')
  const format = ['--format', '$(ORIGIN)|$(CODENAME)|$(RELEASE)', 'Created-By: Packages']
  const listed = await run(['apt-get', 'indextargets', ...format], { env }).catch((error: unknown) => {
    if (error instanceof Fail && error.code === 'not-permitted') return undefined
    throw error
  })
  if (listed === undefined) return undefined
  const named = releasesIn(listed.stdout, facts.id)
  const next = [...named].filter((name) => name !== facts.release)
  const about = { release: facts.release, next, isMixed: named.has(facts.release) }
  if (next.length === 0) return { ...about, ...NOTHING }
  const simulated = await run(['apt-get', '--simulate', 'full-upgrade'], { env, okCodes: [0, 100] })
  if (simulated.code !== 0) return { ...about, ...NOTHING, problem: simulated.stderr.trim() }
  const there = await Promise.all(['showmanual', 'showauto'].map((list) => run(['apt-mark', list], { env })))
  return {
    ...about,
    ...readSimulation(
      simulated.stdout,
      there.flatMap(({ stdout }) => stdout.split('\n')),
    ),
  }
}

const NOTHING = {
  removed: [],
  upgraded: [],
  installed: [],
  kept: [],
  heldBack: [],
  unneeded: [],
  problem: undefined,
}

function osFacts(text: string): { readonly id: string; readonly release: string } {
  const valueOf = (key: string) => new RegExp(`^${key}="?([^"\n]*)"?$`, 'm').exec(text)?.[1] ?? ''
  return { id: valueOf('ID'), release: valueOf('VERSION_CODENAME') }
}

/**
 * Code names of the system's own releases among what apt knows of its sources. Others', such as `bookworm-pgdg`, do
 * not say which release is to be installed. Of a list that was never fetched only the word in the sources is known. Pure.
 */
function releasesIn(targets: string, id: string): Set<string> {
  const names = targets
    .split('\n')
    .map((line) => line.split('|'))
    .filter(([origin = '']) => origin === '' || origin.toLowerCase() === id)
    .map(([, codename = '', release = '']) => codename || release)
  return new Set(
    names.map((name) => name.replace(/[-/](security|updates|backports|proposed).*$/, '')).filter(Boolean),
  )
}

/**
 * What a simulation says of PostgreSQL's packages. Pure.
 * @param there names of all packages that are installed
 */
export function readSimulation(
  text: string,
  there: readonly string[],
): Omit<AptForecast, 'release' | 'next' | 'isMixed'> {
  const lines = text.split('\n')
  const removed = named(lines, /^Remv (\S+)/)
  const upgraded = named(lines, /^Inst (\S+) \[/)
  const kept = there.map(plainName).filter((name) => isPostgres(name))
  return {
    removed,
    upgraded,
    installed: named(lines, /^Inst (\S+) \(/),
    kept: [...new Set(kept)].filter((name) => !removed.includes(name) && !upgraded.includes(name)).toSorted(),
    heldBack: section(lines, /kept back:$/),
    unneeded: section(lines, /no longer required:$/).filter((name) => !removed.includes(name)),
    problem: undefined,
  }
}

function named(lines: readonly string[], pattern: RegExp): string[] {
  const names = lines.flatMap((line) => pattern.exec(line)?.[1] ?? []).map(plainName)
  return names.filter((name) => isPostgres(name)).toSorted()
}

/** Names in the indented lines below a heading. */
function section(lines: readonly string[], heading: RegExp): string[] {
  const start = lines.findIndex((line) => heading.test(line))
  if (start === -1) return []
  const end = lines.findIndex((line, index) => index > start && !line.startsWith('  '))
  const words = lines
    .slice(start + 1, end === -1 ? undefined : end)
    .flatMap((line) => line.trim().split(/\s+/))
  return words
    .map(plainName)
    .filter((name) => isPostgres(name))
    .toSorted()
}

/** `libpq5:i386` */
function plainName(word: string): string {
  return word.replace(/:.*$/, '')
}

function isPostgres(name: string): boolean {
  return /^(postgresql(-|$)|libpq|libecpg|libpgtypes|pgdg-)/.test(name)
}

/** For people: what apt would do, and what to beware of. Pure. */
export function showForecast(forecast: AptForecast | undefined, major: number): string[] {
  if (forecast === undefined) return ['apt: there is none on this host']
  const { release, next, isMixed, removed, upgraded, installed, kept, heldBack, unneeded, problem } = forecast
  if (next.length === 0)
    return [
      `apt: its sources still name ${release}, the release that runs: nothing of the next one can be foretold. Once they name it, and after apt-get update, this says what apt would do: howdah upgrade prepare-os --plan`,
    ]
  const list = (what: string, names: readonly string[]) =>
    names.length === 0 ? [] : [`apt to ${next.join(', ')}: ${what} ${names.join(' ')}`]
  const own = new RegExp(`^postgresql-(client-|server-dev-|doc-|pl[a-z0-9]*-)?${major}(-|$)`)
  const lost = removed.filter((name) => own.test(name))
  const loose = unneeded.filter((name) => own.test(name))
  return [
    ...(isMixed
      ? [`! apt: its sources name ${release} as well: make all of them name ${next.join(', ')}`]
      : []),
    ...(problem === undefined ? [] : [`! apt to ${next.join(', ')}: finds no way: ${problem}`]),
    ...list('removes', removed),
    ...list('upgrades', upgraded),
    ...list('installs', installed),
    ...list('keeps as they are', kept),
    ...list('holds back', heldBack),
    ...(lost.length === 0
      ? []
      : [
          `! without ${lost.join(' ')} the cluster of ${major} cannot be brought over afterwards. Find what wants them gone, or keep them: apt-mark hold ${lost.join(' ')}`,
        ]),
    ...(loose.length === 0
      ? []
      : [
          `! apt autoremove would take ${loose.join(' ')}, which the upgrade needs: apt-mark manual ${loose.join(' ')}`,
        ]),
  ]
}
