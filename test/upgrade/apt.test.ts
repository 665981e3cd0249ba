import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { run } from '../../scripts/core/exec.ts'
import { type AptForecast, aptForecast, showForecast } from '../../scripts/upgrade/apt.ts'

let dir: string
let release: string
let arch: string

/** One package: name, version, and other fields. */
const stanza = (name: string, version: string, more = '') =>
  `Package: ${name}\nArchitecture: ${arch}\nVersion: ${version}\nMaintainer: nobody <nobody@localhost>\nDescription: test\n${more}`

const available = (name: string, version: string, more = '') =>
  `${stanza(name, version, more)}Filename: pool/${name}.deb\nSize: 1\nSHA256: ${'0'.repeat(64)}\n`

const present = (name: string, version: string, more = '') =>
  stanza(name, version, `Status: install ok installed\n${more}`)

/** What apt itself foretells of a system of its own: its packages, those that are there automatically, and its sources. */
async function forecast(
  installed: readonly string[],
  { sources, automatic = [] }: { sources: readonly string[]; automatic?: readonly string[] },
): Promise<AptForecast> {
  await writeFile(join(dir, 'status'), installed.join('\n'))
  const states = automatic.map((name) => `Package: ${name}\nArchitecture: ${arch}\nAuto-Installed: 1\n`)
  await writeFile(join(dir, 'extended_states'), states.join('\n'))
  const lines = sources.map((name) => `deb [trusted=yes] file:${join(dir, 'repo')} ${name} main\n`)
  await writeFile(join(dir, 'sources.list'), lines.join(''))
  const env = { APT_CONFIG: join(dir, 'apt.conf') }
  await run(['apt-get', 'update'], { env })
  return (await aptForecast({ env }))!
}

async function publish(name: string, packages: readonly string[]): Promise<void> {
  const dist = join(dir, 'repo/dists', name)
  const folder = join(dist, `main/binary-${arch}`)
  await mkdir(folder, { recursive: true })
  const text = packages.join('\n')
  await writeFile(join(folder, 'Packages'), text)
  const { stdout } = await run(['sha256sum', '--', join(folder, 'Packages')])
  const sum = `${stdout.split(' ')[0]} ${Buffer.byteLength(text)} main/binary-${arch}/Packages`
  const head = `Origin: Debian\nSuite: ${name}\nCodename: ${name}\nArchitectures: ${arch}\nComponents: main\nDate: Thu, 01 Jan 2026 00:00:00 UTC\n`
  await writeFile(join(dist, 'Release'), `${head}SHA256:\n ${sum}\n`)
}

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'howdah-apt-'))
  arch = (await run(['dpkg', '--print-architecture'])).stdout.trim()
  release = /^VERSION_CODENAME=(.*)$/m.exec(await readFile('/etc/os-release', 'utf8'))![1]!
  const conf = {
    'Dir::State': dir,
    'Dir::State::status': join(dir, 'status'),
    'Dir::State::extended_states': join(dir, 'extended_states'),
    'Dir::Cache': join(dir, 'cache'),
    'Dir::Etc::sourcelist': join(dir, 'sources.list'),
    'Dir::Etc::sourceparts': '/dev/null',
    'Dir::Etc::parts': '/dev/null',
    'Dir::Etc::preferences': '/dev/null',
    'Dir::Etc::preferencesparts': '/dev/null',
    'APT::Sandbox::User': 'root',
  }
  const lines = Object.entries(conf).map(([key, value]) => `${key} "${value}";\n`)
  await writeFile(join(dir, 'apt.conf'), `${lines.join('')}\n`)
  await mkdir(join(dir, 'lists/partial'), { recursive: true })
  await mkdir(join(dir, 'cache/archives/partial'), { recursive: true })
  await publish(release, [available('postgresql-15', '15.1')])
  await publish(`${release}-updates`, [])
  await publish('later', [
    available('postgresql', '17+278', 'Depends: postgresql-17\n'),
    available('postgresql-17', '17.2', 'Depends: libpq5 (>= 17)\n'),
    available('libpq5', '17.2', 'Breaks: postgresql-15-old\n'),
    available('postgresql-common', '278'),
    available('unrelated', '2'),
  ])
})
afterAll(() => rm(dir, { recursive: true, force: true }))

const host = () => [
  present('postgresql', '15+248', 'Depends: postgresql-15\n'),
  present('postgresql-15', '15.1'),
  present('libpq5', '15.1'),
  present('postgresql-common', '248'),
  present('unrelated', '1'),
]

test('sources of the release that runs: that is said, and nothing is foretold', async () => {
  const found = await forecast(host(), { sources: [release, `${release}-updates`] })
  expect(found).toMatchObject({ release, next: [], removed: [], upgraded: [], installed: [] })
  expect(showForecast(found, 15).join('\n')).toContain(`still name ${release}`)
})

test('sources of the next release: what is upgraded, installed and kept; the old programs, there by themselves, would go with autoremove', async () => {
  const found = await forecast(host(), { sources: ['later'], automatic: ['postgresql-15', 'libpq5'] })
  expect(found).toEqual({
    release,
    next: ['later'],
    isMixed: false,
    removed: [],
    upgraded: ['libpq5', 'postgresql', 'postgresql-common'],
    installed: ['postgresql-17'],
    kept: ['postgresql-15'],
    heldBack: [],
    unneeded: ['postgresql-15'],
    problem: undefined,
  })
  const shown = showForecast(found, 15)
  expect(shown.filter((line) => line.startsWith('!'))).toEqual([
    '! apt autoremove would take postgresql-15, which the upgrade needs: apt-mark manual postgresql-15',
  ])
})

test('a package of the old major that must go: it is named, with what keeps it', async () => {
  const found = await forecast([...host(), present('postgresql-15-old', '1', 'Depends: postgresql-15\n')], {
    sources: ['later'],
  })
  expect(found.removed).toEqual(['postgresql-15-old'])
  expect(showForecast(found, 15).join('\n')).toMatch(
    /! without postgresql-15-old .*apt-mark hold postgresql-15-old/,
  )
  expect(showForecast(found, 13).join('\n')).not.toContain('!')
})

test('sources of both releases: that is said', async () => {
  const found = await forecast(host(), { sources: [release, 'later'] })
  expect(found).toMatchObject({ next: ['later'], isMixed: true })
  expect(showForecast(found, 15)[0]).toContain(`name ${release} as well`)
})
