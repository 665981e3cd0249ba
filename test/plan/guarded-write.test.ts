import { chmod, chown, mkdir, readFile, readdir, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { userId, userName } from '../../scripts/cluster/connect.ts'
import { openCluster } from '../../scripts/cluster/open.ts'
import type { Change, Step } from '../../scripts/plan/change.ts'
import { execute } from '../../scripts/plan/executor.ts'
import { recoverWrites } from '../../scripts/plan/guarded-write.ts'
import { changeOf } from '../support/change.ts'
import { ended, startCode } from '../support/code.ts'
import { startServer, type TestServer } from '../support/server.ts'

const isRoot = process.getuid?.() === 0

let server: TestServer
let owner: string
let hba: string
let conf: string
let stateDir: string
beforeAll(async () => {
  server = await startServer()
  owner = isRoot ? 'postgres' : userName(process.getuid!())
  hba = join(server.cluster.dataDir, 'pg_hba.conf')
  conf = join(server.cluster.dataDir, 'conf.d/90-test.conf')
  stateDir = join(server.dir, 'state')
})
afterAll(() => server[Symbol.asyncDispose]())
afterEach(async () => {
  await rm(conf, { force: true })
  expect(await journals()).toEqual([])
  if (!(await server.cluster.isRunning())) await server.cluster.start()
})

const journals = () => readdir(join(stateDir, 'journal')).catch(() => [])

const settings = (content: string): Step => ({
  run: 'write',
  path: conf,
  content,
  mode: 0o600,
  owner,
  check: 'settings',
})
const rules = (content: string): Step => ({
  run: 'write',
  path: hba,
  content,
  mode: 0o640,
  owner,
  check: 'hba',
})
const RELOAD: Step = { run: 'reload' }
const RESTART: Step = { run: 'restart' }

const apply = (...steps: readonly Step[]) =>
  execute([changeOf('x', ...steps)], { open: () => openCluster(server.host('')), stateDir })

const show = async (name: string) =>
  (await server.query<{ value: string }>('postgres', 'select current_setting($1) as value', [name]))[0]!.value

/** Everything of a file that must be as it was. */
async function lookAt(path: string) {
  const { mode, uid, gid } = await stat(path)
  return { bytes: (await readFile(path)).toString('hex'), mode: mode & 0o7777, uid, gid }
}

/** The rules in force: not those of the file, but what a new connection meets. */
const isLetIn = () =>
  server.cluster.connect('postgres').then(
    (client) => client.end().then(() => true),
    () => false,
  )

describe('settings', () => {
  test('that the server likes: count when it has read them, and nothing is kept of what was', async () => {
    await apply(settings("work_mem = '5MB'\n"), RELOAD)
    expect(await show('work_mem')).toBe('5MB')
  })

  test.each([
    ['an unknown name', 'no_such_setting = 1\n', /no_such_setting: unrecognized configuration parameter/],
    ['a value that is none', 'work_mem = lots\n', /work_mem: setting could not be applied/],
    ['a syntax error', 'work_mem 5MB 6MB\n', /syntax error/],
  ])('%s: is refused, and the file is what it was, to the byte', async (_, content, message) => {
    // Latin-1 in a comment is no UTF-8, and the file may be anybody's.
    await writeFile(
      conf,
      Buffer.concat([Buffer.from('# M\xfcnchen\n', 'latin1'), Buffer.from("work_mem = '6MB'\n")]),
    )
    await chmod(conf, 0o604)
    if (isRoot) await chown(conf, 0, 0)
    await server.query('postgres', 'select pg_reload_conf()')
    const before = await lookAt(conf)
    await expect(apply(settings(content), RELOAD)).rejects.toMatchObject({
      code: 'change-undone',
      message: expect.stringMatching(message),
      hint: expect.stringContaining(`"${conf}" is as it was`),
    })
    expect(await lookAt(conf)).toEqual(before)
    expect(await show('work_mem')).toBe('6MB')
  })

  test('refused where there was no file: there is none afterwards', async () => {
    await expect(apply(settings('no_such_setting = 1\n'), RELOAD)).rejects.toMatchObject({
      code: 'change-undone',
    })
    await expect(stat(conf)).rejects.toThrow('ENOENT')
  })

  test('two files, the second is refused: both are what they were', async () => {
    const other = join(server.cluster.dataDir, 'conf.d/80-test.conf')
    const first: Step = { ...settings("work_mem = '7MB'\n"), path: other } as Step
    await expect(apply(first, settings('no_such_setting = 1\n'), RELOAD)).rejects.toMatchObject({
      code: 'change-undone',
    })
    await expect(stat(other)).rejects.toThrow('ENOENT')
  })

  test('one file written twice in a run, the second time refused: is what it was before the first', async () => {
    await writeFile(conf, "work_mem = '8MB'\n")
    await expect(
      apply(settings("work_mem = '9MB'\n"), settings('no_such_setting = 1\n'), RELOAD),
    ).rejects.toMatchObject({ code: 'change-undone' })
    expect(await readFile(conf, 'utf8')).toBe("work_mem = '8MB'\n")
  })

  test('that need a restart: count when the server is up with them', async () => {
    await apply(settings('max_connections = 43\n'), RESTART)
    expect(await show('max_connections')).toBe('43')
  })

  test.each([
    ['a library that is not there', "shared_preload_libraries = 'howdah_no_such'\n", 'howdah_no_such'],
    ['a value that is none, which only a start finds', 'max_connections = many\n', 'max_connections'],
    ['more memory than there is', "shared_buffers = '900TB'\n", 'shared_buffers'],
  ])(
    'that stop the server from starting (%s): are taken back, and it runs again',
    async (_, content, word) => {
      await writeFile(conf, "work_mem = '6MB'\n")
      await expect(apply(settings(content), RESTART)).rejects.toMatchObject({
        code: 'change-undone',
        message: `${server.cluster.label} does not start with the new settings; it runs again with the old ones`,
        hint: expect.stringMatching(new RegExp(`${word}(.|\\n)*Put back as it was: ${conf}\\.$`)),
      })
      expect(await readFile(conf, 'utf8')).toBe("work_mem = '6MB'\n")
      expect(await show('work_mem')).toBe('6MB')
    },
  )

  test("a restart that fails for a reason of its own: is not taken for the new file's fault", async () => {
    await writeFile(conf, "shared_preload_libraries = 'howdah_no_such'\n")
    await expect(apply(RESTART)).rejects.toMatchObject({ code: 'command-failed' })
    expect(await readFile(conf, 'utf8')).toContain('howdah_no_such')
  })

  test('while the server is down: are written as they are, and count with its start', async () => {
    await server.cluster.stop()
    await apply(settings("work_mem = '10MB'\n"), RESTART)
    expect(await show('work_mem')).toBe('10MB')
  })
})

describe('rules of pg_hba.conf', () => {
  let before: Awaited<ReturnType<typeof lookAt>>
  beforeAll(async () => {
    await writeFile(hba, Buffer.from('# Z\xfcrich\nlocal all all peer\n', 'latin1'))
    await chmod(hba, 0o644)
    await server.query('postgres', 'select pg_reload_conf()')
    before = await lookAt(hba)
  })

  test.each([
    ['a method that is none', 'local all all pear\n', /line 1: invalid authentication method "pear"/],
    ['a line that is no rule', 'local all all peer\nlet me in\n', /line 2: invalid connection type "let"/],
    ['an address without a mask', 'host all all 10.0.0.0 scram-sha-256\n', /line 1: .*mask/],
  ])(
    '%s: is refused before anything is in force, and the file is what it was',
    async (_, content, message) => {
      await expect(apply(rules(content), RELOAD)).rejects.toMatchObject({
        code: 'change-undone',
        message: expect.stringMatching(message),
      })
      expect(await lookAt(hba)).toEqual(before)
      expect(await isLetIn()).toBe(true)
    },
  )

  test('that let us in no more: are taken back, and we are let in again', async () => {
    await expect(apply(rules('local all all reject\n'), RELOAD)).rejects.toMatchObject({
      code: 'change-undone',
      message: expect.stringMatching(
        /^after the reload no new connection was let in: .*pg_hba.conf rejects connection/,
      ),
      hint: `Put back as it was: ${hba}. Correct the host file.`,
    })
    expect(await lookAt(hba)).toEqual(before)
    await expect.poll(isLetIn, { timeout: 10_000 }).toBe(true)
  })

  test('that are good: are in force when the reload is through', async () => {
    await apply(rules('local all nobody reject\nlocal all all peer\n'), RELOAD)
    await expect(server.cluster.connect('postgres', { user: 'nobody' })).rejects.toThrow(
      'pg_hba.conf rejects connection',
    )
    await apply(rules('local all all peer\n'), RELOAD)
  })
})

test('reload: somebody else broke a file: it is not taken for done', async () => {
  const other = join(server.cluster.dataDir, 'conf.d/10-broken.conf')
  await writeFile(other, 'no_such_setting = 1\n')
  await expect(apply(settings("work_mem = '5MB'\n"), RELOAD)).rejects.toMatchObject({
    code: 'change-undone',
    message: expect.stringContaining('10-broken.conf:1: no_such_setting'),
  })
  await rm(other)
})

describe('a run that was killed', () => {
  /** Runs steps in a process of its own, which ends itself by SIGKILL before the given one. */
  const killedBefore = async (step: number, ...steps: readonly Step[]) => {
    const changes: Change[] = [changeOf('x', ...steps)]
    const child = startCode(
      `import { openCluster } from 'scripts/cluster/open.ts'
       import { parseHost } from 'scripts/host/host.ts'
       import { execute } from 'scripts/plan/executor.ts'
       let count = 0
       await execute(${JSON.stringify(changes)}, {
         open: () => openCluster(parseHost(${JSON.stringify(server.header)})),
         stateDir: ${JSON.stringify(stateDir)},
         onStep: () => { if (count++ === ${step}) process.kill(process.pid, 'SIGKILL') },
       })`,
    )
    expect(await ended(child)).toMatchObject({ signal: 'SIGKILL', stderr: '' })
  }

  const recover = async () => recoverWrites(stateDir, await openCluster(server.host('')))

  test('between a write and the reload: the file is what it was, with its mode and owner', async () => {
    await writeFile(conf, "work_mem = '6MB'\n")
    await chmod(conf, 0o604)
    await server.query('postgres', 'select pg_reload_conf()')
    const before = await lookAt(conf)
    await killedBefore(1, settings("work_mem = '11MB'\n"), RELOAD)
    expect(await readFile(conf, 'utf8')).toContain('11MB')
    expect(await recover()).toEqual([conf])
    expect(await lookAt(conf)).toEqual(before)
    expect(await show('work_mem')).toBe('6MB')
  })

  test('between two files: both are what they were', async () => {
    const other = join(server.cluster.dataDir, 'conf.d/80-test.conf')
    const first: Step = { ...settings("work_mem = '7MB'\n"), path: other } as Step
    await killedBefore(1, first, settings("work_mem = '8MB'\n"), RELOAD)
    expect(await recover()).toEqual([other])
    await expect(stat(other)).rejects.toThrow('ENOENT')
    await expect(stat(conf)).rejects.toThrow('ENOENT')
  })

  test('between a write and the restart that it would not survive: the next run still takes it back', async () => {
    const steps = [settings("shared_preload_libraries = 'howdah_no_such'\n"), RESTART]
    await killedBefore(1, ...steps)
    expect(await recover()).toEqual([conf])
    await expect(apply(...steps)).rejects.toMatchObject({ code: 'change-undone' })
    expect(await server.cluster.isRunning()).toBe(true)
    await expect(stat(conf)).rejects.toThrow('ENOENT')
  })

  test('with rules that let nobody in: they are taken back without a connection', async () => {
    const before = await lookAt(hba)
    await killedBefore(1, rules('local all all reject\n'), RELOAD)
    process.kill(
      Number((await readFile(join(server.cluster.dataDir, 'postmaster.pid'), 'utf8')).split('\n')[0]),
      'SIGHUP',
    )
    await expect.poll(isLetIn, { timeout: 10_000 }).toBe(false)
    expect(await recover()).toEqual([hba])
    expect(await lookAt(hba)).toEqual(before)
    await expect.poll(isLetIn, { timeout: 10_000 }).toBe(true)
  })

  test('and somebody changed the file since then: their work stays', async () => {
    await killedBefore(1, settings("work_mem = '11MB'\n"), RELOAD)
    await writeFile(conf, "work_mem = '12MB'\n")
    expect(await recover()).toEqual([])
    expect(await readFile(conf, 'utf8')).toBe("work_mem = '12MB'\n")
  })

  test('and the server is down: the file is what it was', async () => {
    await killedBefore(1, settings("shared_preload_libraries = 'howdah_no_such'\n"), RESTART)
    await server.cluster.stop()
    expect(await recover()).toEqual([conf])
    await server.cluster.start()
    expect(await server.cluster.isRunning()).toBe(true)
  })

  test('its journal: is for its owner only, since files may hold secrets', async () => {
    await killedBefore(1, settings("work_mem = '11MB'\n"), RELOAD)
    const [name] = await journals()
    const { mode, uid } = await stat(join(stateDir, 'journal', name!))
    expect({ mode: mode & 0o777, uid }).toEqual({ mode: 0o600, uid: userId(owner).uid })
    await recover()
  })

  test('no run was killed: nothing is done, and without a state folder neither', async () => {
    expect(await recover()).toEqual([])
    expect(await recoverWrites(join(server.dir, 'nowhere'), undefined)).toEqual([])
    await mkdir(join(server.dir, 'other/journal'), { recursive: true })
    await writeFile(join(server.dir, 'other/journal/swap.json'), '{"format": 1}')
    expect(await recoverWrites(join(server.dir, 'other'), undefined)).toEqual([])
    expect(await readdir(join(server.dir, 'other/journal'))).toEqual(['swap.json'])
  })
})
