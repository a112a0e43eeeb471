// The login form: sends the token once and keeps the session's key. The answer sets the cookie.

const form = document.getElementById('form');
const token = document.getElementById('token');
const fault = document.getElementById('fault');

// A link from another site arrives without the cookie (SameSite=Strict), although the session is valid: ask from here.
const key = localStorage.getItem('faas-key');
if (key && !sessionStorage.getItem('faas-tried')) {
  sessionStorage.setItem('faas-tried', '1');
  const answer = await fetch('/api/v1/status', { headers: { 'X-Faas-Key': key } }).catch(() => null);
  if (answer?.ok) location.replace('/' + location.hash);
}

form.addEventListener('submit', async (event) => {
  event.preventDefault();
  fault.textContent = '';
  try {
    const answer = await fetch('/login', {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify({ token: token.value }),
    });
    const body = await answer.json();
    if (answer.ok) {
      localStorage.setItem('faas-key', body.key);
      sessionStorage.removeItem('faas-tried');
      location.replace('/' + location.hash);
      return;
    }
    fault.textContent = body.detail;
  } catch {
    fault.textContent = 'The console does not answer.';
  }
  token.select();
});
