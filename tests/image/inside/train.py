"""Run by the image's Python: one model trains a little; print the first loss and the last."""

import torch

torch.manual_seed(0)
features = torch.randn(64, 10)
labels = (features.sum(dim=1, keepdim=True) > 0).float()
model = torch.nn.Sequential(torch.nn.Linear(10, 5), torch.nn.ReLU(), torch.nn.Linear(5, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
losses = []
for _ in range(20):
    optimizer.zero_grad()
    loss = torch.nn.functional.binary_cross_entropy_with_logits(model(features), labels)
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
print(losses[0], losses[-1])  # noqa: T201 - its result
