import { describe, expect, test } from 'vitest'
import { writableBy } from '../../scripts/schedule/host-file.ts'
import { parseStates, type FoundUnit, type UnitState } from '../../scripts/schedule/systemd.ts'
import { renderTmpfiles, tmpfilesOwner } from '../../scripts/schedule/tmpfiles.ts'
import { renderUnits, type UnitFile } from '../../scripts/schedule/unit.ts'
import { actionsFor, diffUnits, isQuiet, type UnitScene } from '../../scripts/schedule/unit-diff.ts'
import { parseHost } from '../../scripts/host/host.ts'

const FILE = '/etc/howdah/host.toml'

describe('a difference of units', () => {
  const wanted = render(FILE)

  test('nothing is there: all of it is made, the folder of the locks too', () => {
    const changes = diffUnits(wanted, [], FILE)
    expect(changes.map(({ action, path }) => `${action} ${path}`)).toEqual(
      wanted.map(({ name }) =>
        name.endsWith('.conf') ? `create /etc/tmpfiles.d/${name}` : `create /etc/systemd/system/${name}`,
      ),
    )
    expect(wanted.map(({ name }) => name)).toEqual(
      expect.arrayContaining(['howdah-backup-nightly.timer', 'howdah-backup-nightly.service', 'howdah.conf']),
    )
  })

  test('all of it is there: nothing', () => {
    expect(diffUnits(wanted, wanted.map(installed), FILE)).toEqual([])
  })

  test('another schedule: the timer alone', () => {
    const before = render(FILE, { schedule: '0 3 * * *' }).map(installed)
    expect(diffUnits(wanted, before, FILE)).toEqual([
      expect.objectContaining({ action: 'change', name: 'howdah-backup-nightly.timer', isEdited: false }),
    ])
  })

  test('a job that is gone: its units are removed, edited or not', () => {
    const stale = render(FILE, { job: 'old' })
      .map(installed)
      .filter(({ name }) => name.includes('-old'))
    const edited = stale.map((unit) => ({
      ...unit,
      content: unit.content.replace('[Unit]', '[Unit]\n# mine'),
    }))
    for (const found of [stale, edited]) {
      const changes = diffUnits(wanted, [...wanted.map(installed), ...found], FILE)
      expect(changes.map(({ action, name, isEdited }) => ({ action, name, isEdited }))).toEqual(
        stale.map(({ name }) => ({ action: 'remove', name, isEdited: false })),
      )
    }
  })

  test('a unit that somebody edited: is said so', () => {
    const found = wanted.map((unit) =>
      installed(
        unit.name === 'howdah-backup-nightly.service'
          ? { ...unit, content: unit.content.replace('[Service]', '[Service]\nNice=10') }
          : unit,
      ),
    )
    expect(diffUnits(wanted, found, FILE)).toEqual([
      expect.objectContaining({ action: 'change', name: 'howdah-backup-nightly.service', isEdited: true }),
    ])
  })

  test.each<[string, (unit: UnitFile) => FoundUnit, RegExp]>([
    [
      'a unit without our mark',
      (unit) => installed({ ...unit, content: '[Timer]\nOnCalendar=daily\n' }),
      /"\/etc\/systemd\/system\/howdah-backup-nightly\.timer" is there, and it is not of this program/,
    ],
    [
      'a unit of another host file',
      ({ name }) => installed(render('/srv/other.toml').find((unit) => unit.name === name)!),
      /it belongs to the host file "\/srv\/other\.toml"/,
    ],
    [
      'a unit of a package',
      (unit) => ({ ...installed(unit), path: `/usr/lib/systemd/system/${unit.name}` }),
      /"\/usr\/lib\/systemd\/system\/howdah-backup-nightly\.timer" is there/,
    ],
    [
      'a unit that is gone at the next boot',
      (unit) => ({ ...installed(unit), path: `/run/systemd/system/${unit.name}` }),
      /"\/run\/systemd\/system\/howdah-backup-nightly\.timer" is there/,
    ],
    ['a masked unit', (unit) => ({ ...installed(unit), content: '', isMasked: true }), /is masked/],
  ])('%s of the same name: is refused', (_title, found, message) => {
    const timer = wanted.find(({ name }) => name === 'howdah-backup-nightly.timer')!
    expect(() => diffUnits(wanted, [found(timer)], FILE)).toThrow(message)
  })

  test("others' units, and those of another host file under other names: are left alone", () => {
    const others = [
      ...render('/srv/other.toml', { prefix: 'other' }).map(installed),
      installed({ name: 'ssh.service', content: '[Service]\nExecStart=/usr/sbin/sshd\n' }),
    ]
    expect(diffUnits(wanted, [...wanted.map(installed), ...others], FILE)).toEqual([])
  })

  test("a tmpfiles.d file of the same name that is somebody else's: is refused", () => {
    const found = installed({ name: 'howdah.conf', content: 'd /run/x\n' })
    expect(() => diffUnits(wanted, [found], FILE)).toThrow('is not of this program')
  })
})

describe('actions', () => {
  const active: UnitState = {
    isActive: true,
    isEnabled: true,
    needsReload: false,
    activeSince: new Date(10_500),
    next: undefined,
    lastTrigger: undefined,
    result: 'success',
    activeState: 'active',
    subState: 'waiting',
    inactiveSince: undefined,
    restarts: 0,
    isInstalled: true,
  }
  const scene: UnitScene = {
    wanted: [
      'p-a.timer',
      'p-a.service',
      'p-b.timer',
      'p-b.service',
      'p-archive.service',
      'p-alert@.service',
    ].map((name) => ({ name, content: '' })),
    changes: [],
    states: new Map(['p-a.timer', 'p-b.timer', 'p-archive.service'].map((name) => [name, active])),
    paused: new Set(),
    services: ['p-archive.service'],
    changedAt: () => 9000,
  }
  const change = (name: string, action: 'create' | 'change' | 'remove' = 'change') => ({
    action,
    name,
    path: `/etc/systemd/system/${name}`,
    before: '',
    after: '',
    isEdited: false,
  })
  const none = { stop: [], enable: [], start: [], restart: [], reload: false }

  test.each<[string, Partial<UnitScene>, Partial<typeof none> | Record<string, unknown>]>([
    ['everything is as it should be', {}, {}],
    [
      'a changed timer that runs: stopped before it is written, then started',
      { changes: [change('p-a.timer')] },
      { stop: ['p-a.timer'], enable: ['p-a.timer'], start: ['p-a.timer'], reload: true },
    ],
    ['a changed job: what runs goes on as it began', { changes: [change('p-a.service')] }, { reload: true }],
    [
      'a timer that somebody stopped: started',
      { states: new Map([...scene.states, ['p-a.timer', { ...active, isActive: false }]]) },
      { start: ['p-a.timer'] },
    ],
    [
      'a timer that somebody disabled: enabled',
      { states: new Map([...scene.states, ['p-a.timer', { ...active, isEnabled: false }]]) },
      { enable: ['p-a.timer'] },
    ],
    [
      'a paused job: its timer is written, not started',
      {
        changes: [change('p-a.timer')],
        paused: new Set(['p-a.timer']),
        states: new Map([...scene.states, ['p-a.timer', { ...active, isActive: false, isEnabled: false }]]),
      },
      { reload: true },
    ],
    [
      'a changed service: restarted',
      { changes: [change('p-archive.service')] },
      { enable: ['p-archive.service'], restart: ['p-archive.service'], reload: true },
    ],
    [
      'a service older than what it runs: restarted',
      { changedAt: () => 11_000 },
      { restart: ['p-archive.service'] },
    ],
    [
      'a service that was started in the second in which its unit was written: left',
      { changedAt: () => 10_900 },
      {},
    ],
    [
      'a new program: the service is restarted, no job is',
      { changedAt: () => Infinity },
      { restart: ['p-archive.service'] },
    ],
    [
      'a service that still starts: left',
      {
        states: new Map([...scene.states, ['p-archive.service', { ...active, activeSince: undefined }]]),
      },
      {},
    ],
    [
      'a stale timer that runs: stopped',
      { changes: [change('p-c.timer', 'remove')], states: new Map([...scene.states, ['p-c.timer', active]]) },
      { stop: ['p-c.timer'], reload: true },
    ],
    [
      'units that were written by a run that was killed before systemd read them: read again',
      { states: new Map([...scene.states, ['p-a.service', { ...active, needsReload: true }]]) },
      { reload: true },
    ],
  ])('%s', (_title, part, expected) => {
    const actions = actionsFor({ ...scene, ...part })
    expect(actions).toEqual({ ...none, ...expected })
    expect(isQuiet(actions)).toBe(Object.keys(expected).length === 0)
  })
})

test('states: as systemd prints them, in UTC; what is unknown has none', () => {
  const text = [
    'Id=p-a.timer\nActiveState=active\nUnitFileState=enabled\nNeedDaemonReload=no',
    'ActiveEnterTimestamp=Mon 2026-11-23 08:00:00 UTC\nNextElapseUSecRealtime=Tue 2026-11-24 02:00:00 UTC',
    'LastTriggerUSec=n/a\nResult=success\nSubState=waiting\n\nId=p-b.service\nActiveState=failed\nUnitFileState=',
    'Result=exit-code\nSubState=failed\nNRestarts=7\nInactiveEnterTimestamp=Mon 2026-11-23 08:00:01 UTC\n',
  ].join('\n')
  expect([...parseStates(text)]).toEqual([
    [
      'p-a.timer',
      {
        isActive: true,
        isEnabled: true,
        needsReload: false,
        activeSince: new Date('2026-11-23T08:00:00Z'),
        next: new Date('2026-11-24T02:00:00Z'),
        lastTrigger: undefined,
        result: 'success',
        activeState: 'active',
        subState: 'waiting',
        inactiveSince: undefined,
        restarts: 0,
        isInstalled: true,
      },
    ],
    [
      'p-b.service',
      {
        isActive: false,
        isEnabled: false,
        needsReload: false,
        activeSince: undefined,
        next: undefined,
        lastTrigger: undefined,
        result: 'exit-code',
        activeState: 'failed',
        subState: 'failed',
        inactiveSince: new Date('2026-11-23T08:00:01Z'),
        restarts: 7,
        isInstalled: false,
      },
    ],
  ])
})

test.each<[string, { uid: number; gid: number; mode: number }, string | undefined]>([
  ['a file of root for a group', { uid: 0, gid: 110, mode: 0o100_640 }, undefined],
  ['a file that its group can write', { uid: 0, gid: 110, mode: 0o100_660 }, 'its group 110'],
  ["a file that root's group can write", { uid: 0, gid: 0, mode: 0o100_664 }, undefined],
  ['a file of somebody', { uid: 33, gid: 0, mode: 0o100_600 }, 'its owner, the user 33'],
  ['a folder for everybody, sticky', { uid: 0, gid: 0, mode: 0o041_777 }, 'everybody'],
  ['a link of root', { uid: 0, gid: 0, mode: 0o120_777 }, undefined],
])('who can change %s', (_title, found, whose) => {
  expect(writableBy(found)).toBe(whose)
})

test('tmpfiles: of the host file that they are for, and none where the locks are elsewhere', () => {
  const [file] = renderTmpfiles(parseHost(hostFile({}), { path: FILE }), FILE)
  expect(file).toEqual({
    name: 'howdah.conf',
    content: expect.stringMatching(/\nd \/run\/lock\/howdah 0750 postgres postgres -\n$/),
  })
  expect(tmpfilesOwner(file!.content)).toBe(FILE)
  expect(tmpfilesOwner('d /run/x\n')).toBeUndefined()
  const remote = '[host]\nname="h"\n[postgres]\nkind="remote"\nurl="postgres://a@b/"\n'
  expect(renderTmpfiles(parseHost(`format = 1\n${remote}`, { path: FILE }), FILE)).toEqual([])
})

interface Varied {
  readonly schedule?: string
  readonly job?: string
  readonly prefix?: string
}

function hostFile({ schedule = '0 2 * * *', job = 'nightly', prefix = 'howdah' }: Varied): string {
  return `
format = 1
[host]
name = "db1"
[postgres]
major = 15
[store.disk]
type = "dir"
path = "/srv/backups"
[backup.${job}]
kind = "base"
store = "disk"
schedule = "${schedule}"
[schedule]
unit_prefix = "${prefix}"
`
}

function render(path: string, varied: Varied = {}): UnitFile[] {
  const host = parseHost(hostFile(varied), { path })
  const facts = { systemd: 252, program: '/opt/howdah/current', hostFile: path }
  return [...renderUnits(host, facts), ...renderTmpfiles(host, path)]
}

function installed({ name, content }: UnitFile): FoundUnit {
  const folder = name.endsWith('.conf') ? '/etc/tmpfiles.d' : '/etc/systemd/system'
  return { name, content, path: `${folder}/${name}`, isMasked: false, changedAt: new Date(0) }
}
