const controller = new AbortController()

/** Aborted once, when this process is asked to end (Ctrl-C, `systemctl stop`). Everything that waits listens to it. */
export const interrupted: AbortSignal = controller.signal

/** Ends what is going on as Ctrl-C does. Called by core/cli.ts from its signal handlers only. */
export function interrupt(reason: Error): void {
  controller.abort(reason)
}
