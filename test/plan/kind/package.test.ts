import { describe, expect, test } from 'vitest'
import { parseHost } from '../../../scripts/host/host.ts'
import type { Facts, Observe } from '../../../scripts/plan/kind.ts'
import { installedPackages, packageKind } from '../../../scripts/plan/kind/package.ts'

const HEAD = 'format = 1\n[host]\nname = "x"\n[postgres]\n'
const hostOf = (toml: string) => parseHost(`${HEAD}${toml}`)
const wanted = (toml: string) => [...packageKind.wanted(hostOf(toml), {} as Facts).keys()]

test.each([
  ['a debian cluster: the server of its major', 'major = 15', ['postgresql-15']],
  [
    'more of them',
    'major = 15\npackages = ["postgresql-15-postgis-3"]',
    ['postgresql-15', 'postgresql-15-postgis-3'],
  ],
  ['the server, named once more', 'major = 15\npackages = ["postgresql-15"]', ['postgresql-15']],
  [
    'a private cluster: those that it names',
    'kind = "private"\ndata_dir = "/x"\nmajor = 15\npackages = ["zstd"]',
    ['zstd'],
  ],
  ['a private cluster that names none', 'kind = "private"\ndata_dir = "/x"\nmajor = 15', []],
  [
    'a remote one: its host cannot be reached',
    'kind = "remote"\nurl = "postgres://x/"\npackages = ["zstd"]',
    [],
  ],
])('wanted: %s', (_, toml, names) => {
  expect(wanted(toml)).toEqual(names)
})

const status = (...packages: readonly [string, string][]) =>
  packages
    .map(
      ([name, state]) =>
        `Package: ${name}\nStatus: ${state}\nPriority: optional\nDescription: x\n Package: fake\n`,
    )
    .join('\n')

test('installedPackages: a field between name and status, as essential packages have: installed, held, removed with its configuration left behind, half-way', () => {
  expect([
    ...installedPackages(
      status(
        ['postgresql-15', 'install ok installed'],
        ['held', 'hold ok installed'],
        ['removed', 'deinstall ok config-files'],
        ['unpacked', 'install ok unpacked'],
        ['broken', 'install reinstreq half-installed'],
        ['g++', 'install ok installed'],
      ),
    ),
  ]).toEqual(['postgresql-15', 'held', 'g++'])
  expect([...installedPackages('')]).toEqual([])
})

describe('on this machine', () => {
  const actual = (toml: string) => packageKind.actual({ host: hostOf(toml) } as Observe)

  test('what dpkg has: is installed; what it never heard of: is missing', async () => {
    expect(await actual('major = 15\npackages = ["dpkg", "howdah-no-such-package"]')).toEqual(
      new Map([
        ['postgresql-15', expect.any(String)],
        ['dpkg', 'installed'],
        ['howdah-no-such-package', 'missing'],
      ]),
    )
  })

  test('no package wanted: nothing is read', async () => {
    expect(await actual('kind = "private"\ndata_dir = "/x"\nmajor = 15')).toEqual(new Map())
  })
})

describe('change', () => {
  const context = { host: hostOf('major = 15'), facts: {} as Facts }

  test('installed: nothing to do', () => {
    expect(packageKind.change('zstd', 'installed', 'installed', context)).toBeUndefined()
  })

  test('missing: is installed, after the server packages were told to make no cluster of their own', () => {
    const change = packageKind.change('postgresql-15', 'installed', 'missing', context)!
    expect(change).toMatchObject({ kind: 'package', name: 'postgresql-15', action: 'create', hazards: [] })
    expect(change.steps[0]).toMatchObject({
      run: 'write',
      path: '/etc/postgresql-common/createcluster.d/howdah.conf',
      content: expect.stringMatching(/^create_main_cluster = false$/m),
    })
    expect(change.steps.map((step) => (step.run === 'exec' ? step.argv.join(' ') : step.run))).toEqual([
      'write',
      'env DEBIAN_FRONTEND=noninteractive apt-get update -qq',
      'env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql-15',
    ])
  })

  test('never removed: a package may be there for others', () => {
    expect('drop' in packageKind).toBe(false)
  })
})
