import process from 'node:process'
import { run } from './exec.ts'

/** What systemd is told of this service. */
export interface Notifier {
  /** The service is up. */
  ready(): Promise<void>
  /** One line for `systemctl status`; also says that the service is alive, when systemd wants to know. */
  status(text: string): Promise<void>
  stopping(): Promise<void>
}

/** Tells systemd by systemd-notify(1); does nothing where it does not listen. */
export function openNotifier(environment: NodeJS.ProcessEnv = process.env): Notifier {
  const socket = environment['NOTIFY_SOCKET']
  // systemd expects a sign at least once in this time (sd_watchdog_enabled(3)); half of it is safe.
  const watchdog = Number(environment['WATCHDOG_USEC'] ?? 0) / 1000 / 2
  const every = Math.min(watchdog > 0 ? watchdog : Infinity, STATUS_MILLISECONDS)
  let told = -Infinity
  const tell = async (...words: readonly string[]) => {
    if (socket === undefined || socket === '') return
    const argv = ['systemd-notify', `--pid=${process.pid}`, ...words]
    // What it is told is a courtesy: the work goes on without.
    await run(argv, { env: { NOTIFY_SOCKET: socket }, evenInterrupted: true, okCodes: [0, 1, 127] }).catch(
      () => {},
    )
  }
  return {
    ready: () => tell('--ready'),
    async status(text) {
      if (performance.now() - told < every) return
      told = performance.now()
      await tell(`--status=${text}`, ...(watchdog > 0 ? ['WATCHDOG=1'] : []))
    },
    stopping: () => tell('STOPPING=1'),
  }
}

const STATUS_MILLISECONDS = 10_000
