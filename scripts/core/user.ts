import { userInfo } from 'node:os'
import process from 'node:process'

/** The OS user of this process by name, or by number where the number has no name. */
export function currentUser(): string {
  try {
    return userInfo().username
  } catch {
    return String(process.geteuid?.() ?? '')
  }
}
