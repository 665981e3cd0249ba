import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { loadHost } from '../../scripts/cluster/open.ts'
import { runCode } from '../support/code.ts'

let dir: string
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'howdah-open-'))
  await chmod(dir, 0o755)
})
afterAll(() => rm(dir, { recursive: true }))

const HOST = 'format = 1\n[host]\nname = "x"\n[postgres]\nmajor = 15\n'

test('loadHost: a file: the host, its text and where it came from', async () => {
  const path = join(dir, 'host.toml')
  await writeFile(path, HOST)
  const loaded = await loadHost(path, ['postgres.port=6000'])
  expect(loaded).toMatchObject({ path, text: HOST, host: { postgres: { port: 6000 } } })
})

test('loadHost: what is wrong in it: is said with its path and line', async () => {
  const path = join(dir, 'wrong.toml')
  await writeFile(path, `${HOST}prot = 1`)
  await expect(loadHost(path)).rejects.toMatchObject({
    code: 'host-file',
    message: `${path}:6: postgres.prot: unknown key (did you mean "port"?)`,
  })
})

test('loadHost: no file: says how to name one', async () => {
  await expect(loadHost(join(dir, 'none.toml'))).rejects.toMatchObject({
    code: 'file-unreadable',
    message: `cannot read "${dir}/none.toml": no such file`,
    hint: 'Name the host file with -c FILE; conf/demo.toml is an example.',
  })
})

test('loadHost: a folder: is said', async () => {
  await expect(loadHost(dir)).rejects.toMatchObject({
    code: 'file-unreadable',
    message: `cannot read "${dir}": it is a folder`,
  })
})

test.runIf(process.getuid?.() === 0)(
  'loadHost: a file that is closed to us: who is needed is said',
  async () => {
    const path = join(dir, 'closed.toml')
    await writeFile(path, HOST, { mode: 0o600 })
    const { stdout } = await runCode(
      `import { loadHost } from 'scripts/cluster/open.ts'
     await loadHost('${path}').catch((error) => console.log(error.code, error.message, error.hint))`,
      { uid: 65_534, gid: 65_534 },
    )
    expect(stdout).toBe(
      `file-unreadable cannot read "${path}": permission denied Run this as root, or as the owner of ${dir}.\n`,
    )
  },
)
