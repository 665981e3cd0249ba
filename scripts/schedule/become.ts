import process from 'node:process'
import { userId } from '../cluster/connect.ts'

/**
 * What goes before a program so that it runs as another user, without a process in between and without a session of
 * PAM, which a sandbox may refuse. Nothing when this process is not root, or that user is.
 * @param options more of setpriv(1)
 * @throws {Fail} what {@link userId} throws
 */
export function become(user: string, options: readonly string[]): string[] {
  if (process.getuid?.() !== 0 || user === 'root') return []
  const { uid, gid } = userId(user)
  return ['setpriv', ...options, `--reuid=${uid}`, `--regid=${gid}`, '--init-groups', '--']
}
