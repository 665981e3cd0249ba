import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { openNotifier } from '../../scripts/core/notifier.ts'
import { output } from '../../scripts/core/exec.ts'

test('systemd listens: it is told that the service is up, and how it is', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'howdah-notify-'))
  onTestFinished(() => rm(dir, { recursive: true, force: true }))
  const socket = join(dir, 'notify')
  const heard = join(dir, 'heard')
  await writeFile(heard, '')
  // systemd's is a datagram socket, which Node has none of.
  const listener = new AbortController()
  const isUp = Promise.withResolvers<void>()
  const listening = (async () => {
    const program = `import socket,sys
s=socket.socket(socket.AF_UNIX,socket.SOCK_DGRAM); s.bind(sys.argv[1]); print("up",flush=True)
while True:
  data=s.recv(4096)
  open(sys.argv[2],"ab").write(data+b"\\n")`
    for await (const _ of output(['python3', '-c', program, socket, heard], { signal: listener.signal }))
      isUp.resolve()
  })().catch(() => {})
  await isUp.promise
  const notifier = openNotifier({ NOTIFY_SOCKET: socket, WATCHDOG_USEC: '2000000' })
  await notifier.ready()
  await notifier.status('stored up to 0/3000028')
  await notifier.status('too soon to be told again')
  await notifier.stopping()
  await expect
    .poll(async () =>
      (await readFile(heard, 'utf8'))
        .split('\n')
        .filter((line) => /^(READY|STATUS|WATCHDOG|STOPPING)=/.test(line)),
    )
    .toEqual(['READY=1', 'STATUS=stored up to 0/3000028', 'WATCHDOG=1', 'STOPPING=1'])
  listener.abort(new Error('over'))
  await listening
})

test('nobody listens: nothing happens', async () => {
  const notifier = openNotifier({})
  await expect(
    Promise.all([notifier.ready(), notifier.status('x'), notifier.stopping()]),
  ).resolves.toBeDefined()
})
