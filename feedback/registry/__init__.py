"""What is served: models, their versions, the adapters on disk and every move of a champion."""
