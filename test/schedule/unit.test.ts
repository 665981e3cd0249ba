import { describe, expect, test } from 'vitest'
import { parseHost } from '../../scripts/host/host.ts'
import { parseMark, serviceName, timerName, type UnitFacts } from '../../scripts/schedule/unit.ts'
import { DIR_JOB, HOST, NOTIFIED, READING_JOB, S3_JOB, TOLD_AS_ROOT, unitsOf } from '../support/units.ts'

describe('the units of a host file', () => {
  test('nothing is scheduled: there are none', () => {
    expect(unitsOf([])).toEqual([])
    expect(unitsOf([NOTIFIED])).toEqual([])
  })

  test('their names, in the order of the file', () => {
    expect(unitsOf([S3_JOB]).map(({ name }) => name)).toEqual([
      'howdah-archive.service',
      'howdah-backup-far.service',
      'howdah-backup-far.timer',
      'howdah-verify-far.service',
      'howdah-verify-far.timer',
      'howdah-archive-check.service',
      'howdah-archive-check.timer',
      'howdah-check.service',
      'howdah-check.timer',
      'howdah-alert@.service',
    ])
  })

  test('another prefix: another name for each, the alert included', () => {
    const units = unitsOf([DIR_JOB, '[schedule]\nunit_prefix = "two"\n'])
    expect(units.every(({ name }) => name.startsWith('two-'))).toBe(true)
    expect(units[0]!.content).toContain('\nOnFailure=two-alert@%n.service\n')
  })

  test.each([247, 249, 252, 255])('systemd %i: no placeholder is left, and no line is empty', (systemd) => {
    for (const { content } of unitsOf([DIR_JOB, S3_JOB, NOTIFIED], { systemd })) {
      expect(content).not.toMatch(/[{}]|undefined|null|NaN/)
      expect(content).not.toMatch(/^(?!CapabilityBoundingSet)\w+=$/m)
    }
  })
})

test('the archive: what it reads of the host file is another: its unit is another, so that it is started again', () => {
  const archive = (...more: readonly string[]) =>
    unitsOf([S3_JOB, ...more]).find((unit) => unit.name === 'howdah-archive.service')!.content
  expect(archive('[roles.app]\n')).toBe(archive())
  expect(
    archive(
      '[encryption]\nrecipients = ["age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"]\n',
    ),
  ).not.toBe(archive())
})

describe('the service of a job', () => {
  const name = 'howdah-backup-nightly.service'

  test('prepares, runs, records: with the host file each time', () => {
    const unit = linesOf(name, [DIR_JOB])
    expect(unit).toMatchObject({
      Description: ['Howdah: backup nightly'],
      Type: ['oneshot'],
      User: ['postgres'],
      ExecStartPre: [
        '/opt/howdah/current/scripts/howdah schedule prepare backup-nightly -c /etc/howdah/host.toml',
      ],
      ExecStart: [
        '/opt/howdah/current/scripts/howdah backup take nightly --wait 1h --prune -c /etc/howdah/host.toml',
      ],
      ExecStopPost: [
        '/opt/howdah/current/scripts/howdah schedule record backup-nightly -c /etc/howdah/host.toml',
      ],
      TimeoutStartSec: ['86400s'],
      OnFailure: ['howdah-alert@%n.service'],
    })
    expect(unit).not.toHaveProperty('LoadCredential')
  })

  test('RuntimeMaxSec does nothing where Type is oneshot: the limit is that of the start', () => {
    const unit = linesOf(name, [DIR_JOB, 'runtime_limit = "90min"\n'])
    expect(unit).toMatchObject({ TimeoutStartSec: ['5400s'] })
    expect(unit).not.toHaveProperty('RuntimeMaxSec')
  })

  test('a path with spaces and "%": is one word of each list, and no specifier', () => {
    const unit = linesOf(name, [DIR_JOB])
    expect(unit['ReadWritePaths']).toEqual(['-/var/lib/howdah', '"-/srv/back up/100%%"', '-/run/lock/howdah'])
  })

  test.each([[String.raw`/srv/a\\b`], [`/srv/it's`], ['/srv/../etc'], [String.raw`/srv/a\tb`]])(
    'a store at %s: is refused, it would be missing from the sandbox in silence',
    (path) => {
      expect(() => unitsOf([DIR_JOB.replace('/srv/back up/100%', path)])).toThrow(/cannot name the path/)
    },
  )

  test('a mount that fails ends what requires it before anything can be told: a job requires none', () => {
    expect(linesOf(name, [DIR_JOB])).not.toHaveProperty('RequiresMountsFor')
  })

  test('the server is waited for, but a server that was stopped on purpose is not started', () => {
    const unit = linesOf(name, [DIR_JOB])
    expect(unit['After']).toEqual(['postgresql@15-main.service'])
    for (const key of ['Wants', 'Requires', 'BindsTo', 'PartOf']) expect(unit).not.toHaveProperty(key)
  })

  test('After=network-online.target alone waits for nobody: it is wanted, too; by what goes to the network only', () => {
    expect(linesOf('howdah-backup-far.service', [S3_JOB])).toMatchObject({
      After: ['postgresql@15-main.service network-online.target'],
      Wants: ['network-online.target'],
    })
    expect(linesOf(name, [DIR_JOB])['After']!.join()).not.toContain('network')
  })

  test('a job in S3: has its credentials and nobody else’s, and writes to no folder of a store', () => {
    const unit = linesOf('howdah-backup-far.service', [DIR_JOB, S3_JOB, NOTIFIED])
    expect(unit['LoadCredential']).toEqual(['ping', 's3.key', 's3.secret'])
    expect(unit['ReadWritePaths']!.join()).not.toContain('/srv')
    expect(linesOf(name, [DIR_JOB, NOTIFIED])).not.toHaveProperty('LoadCredential')
  })

  test.each([
    [252, 's3.key'],
    [251, 's3.key:/etc/credstore/s3.key'],
    [247, 's3.key:/etc/credstore/s3.key'],
  ])('systemd %i: a credential is said as it knows it', (systemd, said) => {
    expect(linesOf('howdah-backup-far.service', [S3_JOB], { systemd })['LoadCredential']).toContain(said)
  })

  test('a prune looks into every store, and writes to that of the WAL, too: else each run would fail after its backup', () => {
    const unit = linesOf(name, [DIR_JOB, S3_JOB])
    expect(unit['LoadCredential']).toEqual(['s3.key', 's3.secret'])
    expect(unit['Wants']).toEqual(['network-online.target'])
    const archived = [DIR_JOB, S3_JOB.replace('[archive]\nstore = "far"', '[archive]\nstore = "local"')]
    const far = linesOf('howdah-backup-far.service', archived)
    expect(far['ReadWritePaths']).toContain('"-/srv/back up/100%%"')
    const archive = linesOf('howdah-archive.service', archived)
    expect(archive['RequiresMountsFor']).toEqual(['"/srv/back up/100%%"'])
  })

  test('no prune: only its own store and that of the WAL are opened, and one is written to', () => {
    const other = '[store.other]\ntype = "dir"\npath = "/srv/other"\n[archive]\nstore = "other"\n'
    const unit = linesOf(name, [DIR_JOB, 'prune = false\n', S3_JOB.replace(/\[archive\]\n.*\n/, other)])
    expect(unit).not.toHaveProperty('LoadCredential')
    expect(unit['ReadWritePaths']!.join()).not.toContain('/srv/other')
  })

  test('a verification looks into every store', () => {
    const verified = linesOf('howdah-verify-nightly.service', [
      DIR_JOB,
      'verify_schedule = "Sun 05:00"\n',
      S3_JOB,
    ])
    expect(verified['LoadCredential']).toEqual(['s3.key', 's3.secret'])
  })

  test.each([
    ['/tmp/store', false],
    ['/var/tmp/store', false],
    ['/var/tmpfiles', true],
    ['/srv/tmp', true],
  ])(
    'a store in %s: /tmp is its own: %s, or backups would be gone when the job ends, with success',
    (path, isPrivate) => {
      const unit = linesOf(name, [DIR_JOB.replace('/srv/back up/100%', path)])
      expect(unit['PrivateTmp'] ?? ['no']).toEqual([isPrivate ? 'yes' : 'no'])
    },
  )

  test('a state folder in /tmp: what the jobs record is where those find it who tell of it', () => {
    const host = HOST.replace('name = "db1"', 'name = "db1"\nstate_dir = "/var/tmp/state"')
    for (const unit of [name, 'howdah-check.service', 'howdah-alert@.service'])
      expect(linesOf(unit, [DIR_JOB], {}, host)).not.toHaveProperty('PrivateTmp')
  })

  test('a job of root: may become the owner of the cluster and end what runs as that, another may nothing', () => {
    const rights = (texts: readonly string[]) => linesOf(name, texts)['CapabilityBoundingSet']!
    expect(rights([DIR_JOB])).toEqual([''])
    expect(rights([DIR_JOB, 'user = "root"\n']).join().split(' ')).toEqual(
      expect.arrayContaining(['CAP_SETUID', 'CAP_SETGID', 'CAP_KILL', 'CAP_CHOWN', 'CAP_DAC_OVERRIDE']),
    )
    expect(linesOf(name, [DIR_JOB, 'user = "root"\n'])).toMatchObject({
      User: ['root'],
      CacheDirectory: ['howdah/root'],
    })
  })

  test.each([
    ['/tmp', false],
    ['/tmp/sockets', false],
    ['/var/tmp', false],
    ['/tmpfiles', true],
    ['/run/pg', true],
  ])('a socket in %s: /tmp is its own: %s, or it would not see the server', (folder, isPrivate) => {
    const host = HOST.replace('[postgres]', `[postgres]\nkind = "private"\nsocket_dir = "${folder}"`).replace(
      'cluster = "main"\n',
      'data_dir = "/srv/pg"\n',
    )
    const texts = [DIR_JOB, '[schedule]\nuser = "pg"\n']
    const unit = linesOf(name, texts, {}, host)
    expect(unit['PrivateTmp'] ?? ['no']).toEqual([isPrivate ? 'yes' : 'no'])
    expect(linesOf('howdah-check.service', texts, {}, host)['PrivateTmp']).toEqual(['yes'])
  })

  test.each([
    ['MemoryDenyWriteExecute', 'V8 writes code to run it'],
    ['PrivateUsers', 'peer authentication would see nobody'],
    ['ProcSubset', 'it reads how much memory there is'],
    ['ProtectProc', 'it looks for the processes of the server'],
    ['PrivateNetwork', 'it has a store to reach'],
    ['DynamicUser', 'the server knows its user'],
    ['RuntimeMaxSec', 'it means nothing here'],
  ])('%s: is not there: %s', (key) => {
    for (const texts of [[DIR_JOB], [S3_JOB], [DIR_JOB, 'user = "root"\n']])
      for (const { content } of unitsOf(texts).filter(({ name }) => /-(backup|archive)/.test(name)))
        expect(content).not.toContain(`\n${key}=`)
  })

  test.each([
    [247, false],
    [248, false],
    [249, true],
    [255, true],
  ])('systemd %i: a recovery is told at once: %s; the key came with 249', (systemd, isThere) => {
    const unit = linesOf(name, [DIR_JOB, NOTIFIED], { systemd })
    expect(unit['OnSuccess']).toEqual(isThere ? ['howdah-alert@%n.service'] : undefined)
  })

  test('nobody to tell: success starts nothing, a failure is written down', () => {
    const unit = linesOf(name, [DIR_JOB])
    expect(unit).not.toHaveProperty('OnSuccess')
    expect(unit['OnFailure']).toEqual(['howdah-alert@%n.service'])
  })

  test('a hostile path of the host file: stays one argument, and one line of the mark', () => {
    const hostFile = `/etc/how dah/100%i $HOME "a'b\\;\n[Service]\nUser=root\n`
    const plain = unitsOf([DIR_JOB]).map(({ content }) => content.match(SECTION))
    expect(unitsOf([DIR_JOB], { hostFile }).map(({ content }) => content.match(SECTION))).toEqual(plain)
    for (const { content } of unitsOf([DIR_JOB], { hostFile })) {
      const runs = content.split('\n').filter((line) => line.startsWith('Exec'))
      for (const line of runs)
        expect(line).toContain(
          String.raw` -c "/etc/how dah/100%%i $$HOME \"a'b\\;\x0a[Service]\x0aUser=root\x0a"`,
        )
      expect(content).not.toMatch(/^User=root/m)
      expect(parseMark(content)).toMatchObject({ hostFile, isEdited: false })
    }
  })

  test('a name of 255 bytes: the unit that tells of it would have a longer one, so it is refused', () => {
    const named = (length: number) => [DIR_JOB.replace('.nightly', `.${'n'.repeat(length)}`)]
    const alert = 'howdah-alert@howdah-backup-.service.service'
    const units = unitsOf(named(255 - alert.length))
    expect(units[0]!.name).toHaveLength(255 - 'howdah-alert@.service'.length)
    expect(() => unitsOf(named(256 - alert.length))).toThrow(/is no name of a unit: .* 234 bytes at most/)
  })

  test('names: as the units have them', () => {
    const host = parseHost(HOST)
    expect([serviceName(host, 'check'), timerName(host, 'check')]).toEqual([
      'howdah-check.service',
      'howdah-check.timer',
    ])
  })
})

describe('a timer', () => {
  const name = 'howdah-backup-nightly.timer'

  test('day of the month or day of the week: two lines, since one would want both', () => {
    expect(linesOf(name, [DIR_JOB])).toMatchObject({
      OnCalendar: ['*-*-01,15 04:30:00 UTC', 'Fri *-*-* 04:30:00 UTC'],
      Persistent: ['yes'],
      WantedBy: ['timers.target'],
    })
  })

  test('no delay: nothing is said of it', () => {
    const unit = linesOf(name, [DIR_JOB])
    expect(unit).not.toHaveProperty('RandomizedDelaySec')
    expect(unit).not.toHaveProperty('FixedRandomDelay')
  })

  test.each([
    [246, undefined],
    [247, ['yes']],
    [252, ['yes']],
  ])('a delay, systemd %i: is always the same: %j', (systemd, fixed) => {
    const unit = linesOf('howdah-backup-far.timer', [S3_JOB], { systemd })
    expect(unit['RandomizedDelaySec']).toEqual(['90s'])
    expect(unit['FixedRandomDelay']).toEqual(fixed)
  })

  test('the checks: make up for nothing', () => {
    expect(linesOf('howdah-archive-check.timer', [S3_JOB])['Persistent']).toEqual(['no'])
    expect(linesOf('howdah-check.timer', [S3_JOB])['Persistent']).toEqual(['no'])
  })
})

describe('the archive', () => {
  const name = 'howdah-archive.service'

  test('is a service that is tried again for ever', () => {
    expect(linesOf(name, [S3_JOB])).toMatchObject({
      Type: ['notify'],
      NotifyAccess: ['all'],
      Restart: ['on-failure'],
      StartLimitIntervalSec: ['0'],
      WantedBy: ['multi-user.target'],
      LoadCredential: ['s3.key', 's3.secret'],
    })
  })

  test.each([
    [252, ['10s'], undefined, undefined],
    [254, ['1s'], ['8'], ['2min']],
  ])(
    'systemd %i: waits before it is tried again',
    (systemd, RestartSec, RestartSteps, RestartMaxDelaySec) => {
      const unit = linesOf(name, [S3_JOB], { systemd })
      expect(unit['RestartSec']).toEqual(RestartSec)
      expect(unit['RestartSteps']).toEqual(RestartSteps)
      expect(unit['RestartMaxDelaySec']).toEqual(RestartMaxDelaySec)
    },
  )
})

describe('what reads files', () => {
  const [job, timer] = ['howdah-reingest-telem.service', 'howdah-reingest-telem.timer']
  const watch = 'howdah-watch-telem.service'

  test('their names, in the order of the file', () => {
    expect(unitsOf([READING_JOB]).map(({ name }) => name)).toEqual([
      watch,
      job,
      timer,
      'howdah-check.service',
      'howdah-check.timer',
      'howdah-alert@.service',
    ])
  })

  test('no schedule: it is by hand; a watch without a schedule is looked after, too', () => {
    const names = (text: string) => unitsOf([text]).map(({ name }) => name)
    expect(names(READING_JOB.replace(/schedule.*\nwatch.*\n/, ''))).toEqual([])
    expect(names(READING_JOB.replace(/schedule.*\n/, ''))).toEqual([
      watch,
      'howdah-check.service',
      'howdah-check.timer',
      'howdah-alert@.service',
    ])
  })

  test('a run: looks and reads in one, at times of the zone of all jobs, not of that of the files', () => {
    expect(linesOf(job, [READING_JOB])).toMatchObject({
      Description: ['Howdah: reingest telem'],
      Type: ['oneshot'],
      User: ['postgres'],
      ExecStartPre: [
        '/opt/howdah/current/scripts/howdah schedule prepare reingest-telem -c /etc/howdah/host.toml',
      ],
      ExecStart: ['/opt/howdah/current/scripts/howdah reingest run telem -c /etc/howdah/host.toml'],
      ExecStopPost: [
        '/opt/howdah/current/scripts/howdah schedule record reingest-telem -c /etc/howdah/host.toml',
      ],
    })
    expect(linesOf(timer, [READING_JOB])['OnCalendar']).toEqual(['*-*-* *:00,15,30,45:00 UTC'])
  })

  test.each([[job], [watch]])('%s: writes to no folder of files, and has nothing of the backups', (name) => {
    const unit = linesOf(name, [DIR_JOB, S3_JOB, READING_JOB])
    expect(unit['ReadWritePaths']).toEqual(['-/var/lib/howdah', '-/run/lock/howdah'])
    expect(unit['ProtectSystem']).toEqual(['strict'])
    expect(unit).not.toHaveProperty('LoadCredential')
    expect(unit['After']).toEqual(['postgresql@15-main.service'])
  })

  test('the watch: is a service with a watchdog that is tried again for ever', () => {
    expect(linesOf(watch, [READING_JOB])).toMatchObject({
      Type: ['notify'],
      NotifyAccess: ['all'],
      TimeoutStartSec: ['infinity'],
      WatchdogSec: ['2min'],
      Restart: ['on-failure'],
      StartLimitIntervalSec: ['0'],
      OnFailure: ['howdah-alert@%n.service'],
      ExecStart: ['/opt/howdah/current/scripts/howdah reingest watch telem -c /etc/howdah/host.toml'],
      WantedBy: ['multi-user.target'],
    })
  })

  test('the watch: a disk that is mounted later is seen by it, so none is bound or waited for', () => {
    const unit = linesOf(watch, [READING_JOB])
    for (const key of ['RequiresMountsFor', 'ReadOnlyPaths', 'BindReadOnlyPaths'])
      expect(unit).not.toHaveProperty(key)
  })

  test('the watch: what it reads of the host file is another: its unit is another; else it is the same', () => {
    const content = (...texts: string[]) => unitsOf(texts).find(({ name }) => name === watch)!.content
    expect(content(READING_JOB, DIR_JOB)).toBe(content(READING_JOB))
    expect(content(READING_JOB.replace('of it', 'of that'))).not.toBe(content(READING_JOB))
    expect(content(READING_JOB.replace('[databases.xtelem]', '[databases.xtelem]\nowner = "x"'))).not.toBe(
      content(READING_JOB),
    )
  })

  test.each([
    ['/tmp/telem', false],
    ['/srv/tmp', true],
  ])('files in %s: /tmp is its own: %s, or they would not be seen', (folder, isPrivate) => {
    const text = READING_JOB.replace('/opt/MagAOX/telem', folder)
    for (const name of [job, watch])
      expect(linesOf(name, [text])['PrivateTmp'] ?? ['no']).toEqual([isPrivate ? 'yes' : 'no'])
  })
})

describe('what tells of failures', () => {
  test.each(['howdah-alert@.service', 'howdah-check.service'])(
    '%s: has no alert of its own, may read the journal, has the credentials of those it tells',
    (name) => {
      const unit = linesOf(name, [S3_JOB, NOTIFIED])
      expect(unit).not.toHaveProperty('OnFailure')
      expect(unit).toMatchObject({
        User: ['postgres'],
        NoNewPrivileges: ['yes'],
        SupplementaryGroups: ['systemd-journal'],
        LoadCredential: ['hook', 'ping'],
        CapabilityBoundingSet: [''],
      })
    },
  )

  test('the alert: is given the name of the unit as it is', () => {
    expect(linesOf('howdah-alert@.service', [DIR_JOB])['ExecStart']).toEqual([
      '/opt/howdah/current/scripts/howdah schedule notify -c /etc/howdah/host.toml --unit %i',
    ])
  })

  test.each(['howdah-alert@.service', 'howdah-check.service'])(
    '%s: a program that needs root: it alone runs as root, the jobs do not',
    (name) => {
      const unit = linesOf(name, [DIR_JOB, TOLD_AS_ROOT])
      expect(unit['User']).toEqual(['root'])
      expect(unit).not.toHaveProperty('SupplementaryGroups')
      expect(unit['ReadWritePaths']!.join(' ')).toContain('/var/spool')
      // Exim goes on after it has ended, as root again; Postfix asks for the addresses of the host.
      expect(unit['KillMode']).toEqual(['process'])
      expect(unit).not.toHaveProperty('NoNewPrivileges')
      expect(unit['RestrictAddressFamilies']!.join()).toContain('AF_NETLINK')
      expect(linesOf('howdah-backup-nightly.service', [DIR_JOB, TOLD_AS_ROOT])['User']).toEqual(['postgres'])
    },
  )
})

describe('the mark of a unit', () => {
  const { content } = unitsOf([DIR_JOB])[0]!
  const hostFile = '/etc/howdah/host.toml'

  test.each<[string, string]>([
    ['an empty file', ''],
    ["a unit of somebody else's", '[Unit]\nDescription=mine\n[Service]\nExecStart=/bin/true\n'],
    ['a comment that speaks of it', '[Unit]\n# [X-Howdah]\nHostFile="/etc/howdah/host.toml"\n'],
    ['a mark that says not whose', content.replace(/^HostFile=.*\n/m, '')],
    ['a mark that says no text', content.replace(/^HostFile=.*$/m, 'HostFile=3')],
    ['a mark that was cut', content.replace(/^HostFile=.*[^]*$/m, 'HostFile="/etc/ho')],
  ])('%s: is not ours', (_title, text) => {
    expect(parseMark(text)).toBeUndefined()
  })

  test('ours', () => {
    expect(parseMark(content)).toEqual({
      hostFile,
      hash: expect.stringMatching(/^[0-9a-f]{64}$/),
      isEdited: false,
    })
  })

  test.each<[string, string]>([
    ['a changed line', content.replace('Nice=10', 'Nice=5')],
    ['a line more at the top', `# mine\n${content}`],
    ['a line more at the end', `${content}User=root\n`],
    ['a section more at the end', `${content}\n[Service]\nUser=root\n`],
    ['a line in the mark', content.replace('\nHash=', '\n# mine\nHash=')],
    ['a changed hash', content.replace(/Hash=./, 'Hash=z')],
    ['no hash', content.replace(/^Hash=.*\n/m, '')],
    ['no last line break', content.trimEnd()],
    ['line ends of another system', content.replaceAll('Nice=10\n', 'Nice=10\r\n')],
  ])('%s: is ours, and edited', (_title, text) => {
    expect(text).not.toBe(content)
    expect(parseMark(text)).toMatchObject({ hostFile, isEdited: true })
  })

  test('other facts, another hash', () => {
    const hashes = [252, 254].map((systemd) => parseMark(unitsOf([S3_JOB], { systemd })[0]!.content)!.hash)
    expect(new Set(hashes).size).toBe(2)
  })
})

const SECTION = /^\[[\w-]+\]$/gm

/** What one unit says: every value of each key, in order. */
function linesOf(
  name: string,
  texts: readonly string[],
  facts: Partial<UnitFacts> = {},
  host = HOST,
): Record<string, string[]> {
  const unit = unitsOf(texts, facts, host).find((unit) => unit.name === name)!
  const lines: Record<string, string[]> = {}
  for (const [, key, value] of unit.content.matchAll(/^(\w+)=(.*)$/gm)) (lines[key!] ??= []).push(value!)
  return lines
}
