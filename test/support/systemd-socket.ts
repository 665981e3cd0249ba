import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { output } from '../../scripts/core/exec.ts'

/** A socket that services tell how they are, as systemd's (sd_notify(3)). */
export interface SystemdSocket extends AsyncDisposable {
  /** What NOTIFY_SOCKET is to be. */
  readonly path: string
  /** What it was told so far. */
  heard(): Promise<string[]>
}

// systemd's is a datagram socket, which Node has none of.
const LISTENER = `import socket,sys
s=socket.socket(socket.AF_UNIX,socket.SOCK_DGRAM); s.bind(sys.argv[1]); print("up",flush=True)
while True:
  data=s.recv(4096)
  open(sys.argv[2],"ab").write(data+b"\\n")`

/** Listens in a folder; what is told is in `heard` there. */
export async function listenAsSystemd(dir: string): Promise<SystemdSocket> {
  const path = join(dir, 'notify')
  const heard = join(dir, 'heard')
  await writeFile(heard, '')
  const listener = new AbortController()
  const isUp = Promise.withResolvers<void>()
  const listening = (async () => {
    const argv = ['python3', '-c', LISTENER, path, heard]
    for await (const _ of output(argv, { signal: listener.signal })) isUp.resolve()
  })().catch((error: unknown) => isUp.reject(error))
  await isUp.promise
  return {
    path,
    heard: async () =>
      (await readFile(heard, 'utf8'))
        .split('\n')
        .filter((line) => /^(READY|STATUS|WATCHDOG|STOPPING)=/.test(line)),
    async [Symbol.asyncDispose]() {
      listener.abort(new Error('over'))
      await listening
    },
  }
}
