"""What a finished run gives: exported models, answers, a merged model, newcomers."""
